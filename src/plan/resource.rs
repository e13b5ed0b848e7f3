//! [`Resource`]: what stages share and there is not enough of for all.

use super::resolve::Resolver;
use super::stage::{CommandMode, StageKind};
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::spec::model::{DeviceIdSpec, DevicesSpec, PerSpec, RateSpec, ResourceSpec, UseOptions, UseSpec, UsesSpec};
use crate::spec::{Document, ResourceDraft, pattern};

/// Index of a resource in [`Plan::resources`](super::Plan::resources).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId(pub u32);

impl ResourceId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub name: String,
    pub kind: ResourceKind,
    /// Of units that are told apart.
    pub devices: Option<Devices>,
    /// Of a rate that has slots as well: the units of the same name. Whoever takes of it takes of both.
    pub slots: Option<ResourceId>,
}

/// Units that are told apart, such as GPUs.
#[derive(Clone, Debug, PartialEq)]
pub struct Devices {
    /// As many as there are units.
    pub ids: Vec<String>,
    /// The environment variable that tells who has some of them which ones.
    pub env: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ResourceKind {
    /// So many units, which an attempt gives back when it has ended.
    Units(u32),
    /// A token bucket: so many tokens come in a second, and so many are kept at most.
    Rate { per_second: f64, burst: u32 },
}

/// What an attempt of a stage takes before it begins, or what a worker of it has for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    pub resource: ResourceId,
    pub units: u32,
    /// So much for each row that the attempt is given, and not for all together. Only of a rate.
    pub per_row: bool,
}

impl Resource {
    /// Those of a document, in its order; `None` for one that is wrong. Behind them stand the slots of those that have a rate and slots.
    pub(super) fn all(document: &Document, problems: &mut Vec<Diagnostic>) -> Vec<Option<Self>> {
        let mut all: Vec<Option<Self>> = document.resources.iter().map(|draft| Self::of(draft, problems)).collect();
        for (at, draft) in document.resources.iter().enumerate() {
            let Some(ResourceSpec::Rate(RateSpec { slots: Some(slots), .. })) = &draft.spec else { continue };
            let behind = ResourceId(u32::try_from(all.len()).expect("a file has fewer resources than bytes"));
            if let Some(rate) = &mut all[at] {
                rate.slots = Some(behind);
            }
            let kind = ResourceKind::Units(*slots);
            all.push(Some(Self { name: draft.name.clone(), kind, devices: None, slots: None }));
        }
        all
    }

    fn of(draft: &ResourceDraft, problems: &mut Vec<Diagnostic>) -> Option<Self> {
        let mut devices = None;
        let kind = match draft.spec.as_ref()? {
            ResourceSpec::Units(units) => ResourceKind::Units(*units),
            ResourceSpec::Devices(spec) => {
                let made = Devices::of(draft, spec, problems)?;
                let units = u32::try_from(made.ids.len()).expect("the schema bounds them");
                devices = Some(made);
                ResourceKind::Units(units)
            }
            ResourceSpec::Rate(RateSpec { rate, burst, slots: _ }) => {
                let Some(per_second) = per_second(rate) else {
                    let node = draft.node.get("rate").unwrap_or(&draft.node);
                    let problem = Diagnostic::new(Code::PlanBadRate, node.span, format!("`{rate}` is not a rate"));
                    let help =
                        "write how much in how long, such as `100/min` or `5/s`; `s`, `min`, `h` and `d` are known";
                    problems.push(problem.help(help.to_owned()).through(node.alias));
                    return None;
                };
                ResourceKind::Rate { per_second, burst: burst.unwrap_or_else(|| usual_burst(per_second)) }
            }
        };
        Some(Self { name: draft.name.clone(), kind, devices, slots: None })
    }

    /// Resources that no stage uses.
    pub(super) fn unused(document: &Document) -> Vec<Diagnostic> {
        let is_used = |name: &str| {
            document.stages.iter().any(|draft| draft.is_lost("uses") || names(draft.spec.uses.as_ref()).contains(&name))
        };
        let unused = document.resources.iter().filter(|draft| !is_used(&draft.name));
        let warning = |draft: &ResourceDraft| {
            let message = format!("no stage uses the resource `{}`", draft.name);
            Diagnostic::new(Code::PlanResourceUnused, draft.name_span, message).label("never used")
        };
        unused.map(warning).collect()
    }
}

impl Devices {
    fn of(draft: &ResourceDraft, spec: &DevicesSpec, problems: &mut Vec<Diagnostic>) -> Option<Self> {
        let DevicesSpec { env, units, ids } = spec;
        let mut report = |key: &str, message: String, help: &str| {
            let node = draft.node.get(key).unwrap_or(&draft.node);
            let problem = Diagnostic::new(Code::PlanBadOption, node.span, message);
            problems.push(problem.help(help.to_owned()).through(node.alias));
        };
        if env.is_empty() || env.contains(['=', '\0']) {
            report("env", format!("`{env}` is no name of a variable"), "write one, such as `CUDA_VISIBLE_DEVICES`");
            return None;
        }
        let ids: Vec<String> = match (units, ids) {
            (Some(units), None) => (0..*units).map(|id| id.to_string()).collect(),
            (None, Some(ids)) => ids.iter().map(device_id).collect(),
            // The schema has said so.
            (Some(_), Some(_)) | (None, None) => return None,
        };
        if let Some(at) = (1..ids.len()).find(|&at| ids[..at].contains(&ids[at])) {
            let message = format!("the resource `{}` has the id `{}` twice", draft.name, ids[at]);
            report("ids", message, "name each once: two attempts never have the same");
            return None;
        }
        if let Some(id) = ids.iter().find(|id| id.is_empty() || id.contains([',', '\0'])) {
            report("ids", format!("`{id}` is no id, as there are commas between ids in `{env}`"), "write one without");
            return None;
        }
        Some(Self { ids, env: env.clone() })
    }
}

fn device_id(id: &DeviceIdSpec) -> String {
    match id {
        DeviceIdSpec::Number(number) => number.to_string(),
        DeviceIdSpec::Text(text) => text.clone(),
    }
}

/// What comes in 100 ms: so a rate is even to whoever is called, and a function that is fast is not called for one row at a time.
fn usual_burst(per_second: f64) -> u32 {
    // Saturates.
    ((per_second / 10.0) as u32).max(1)
}

/// `100/min`.
fn per_second(text: &str) -> Option<f64> {
    let (number, unit) = pattern::is_rate(text).then_some(text)?.split_once('/')?;
    let seconds = match unit.trim() {
        "s" | "sec" | "second" => 1.0,
        "min" | "minute" => 60.0,
        "h" | "hour" => 3600.0,
        "d" | "day" => 86_400.0,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    Some(number / seconds)
}

fn names(uses: Option<&UsesSpec>) -> Vec<&str> {
    match uses {
        None => Vec::new(),
        Some(UsesSpec::One(name)) => vec![name],
        Some(UsesSpec::Many(names)) => names.iter().map(String::as_str).collect(),
        Some(UsesSpec::Units(units)) => units.keys().map(String::as_str).collect(),
    }
}

impl Resolver<'_> {
    /// `kind` is what `Resolver::kind` gave; `resources` has an entry for each of the document.
    pub(super) fn uses(&mut self, kind: Option<&StageKind>, resources: &[Option<Resource>]) -> Vec<Use> {
        let Some(spec) = &self.draft.spec.uses else { return Vec::new() };
        let problem = match kind {
            None => None,
            Some(StageKind::Command(command)) if command.is_source() => Some("its command gives rows while it runs"),
            Some(StageKind::Command(command)) if command.mode == CommandMode::Stream => {
                Some("its command is fed one batch after the other")
            }
            Some(StageKind::Python(_) | StageKind::Command(_)) => None,
            Some(StageKind::Read(_) | StageKind::Write(_) | StageKind::Sql(_) | StageKind::Expect(_)) => {
                Some("it runs no code of yours")
            }
        };
        if let Some(problem) = problem {
            let message = format!("`uses` has no meaning for the stage `{}`: {problem}", self.draft.name);
            let span = self.draft.key_span("uses");
            self.report_at(Code::PlanBadOption, span, None, message).help = Some(
                "remove it; it is for `python` stages, and for commands in mode `batch`, `row` or `once` without output".to_owned(),
            );
            return Vec::new();
        }
        let wanted: Vec<(&str, u32, bool)> = match spec {
            UsesSpec::Units(units) => units
                .iter()
                .map(|(name, spec)| match spec {
                    UseSpec::Units(units) => (name.as_str(), *units, false),
                    UseSpec::Options(UseOptions { units, per }) => {
                        (name.as_str(), units.unwrap_or(1), *per == PerSpec::Row)
                    }
                })
                .collect(),
            UsesSpec::One(_) | UsesSpec::Many(_) => {
                names(Some(spec)).into_iter().map(|name| (name, 1, false)).collect()
            }
        };
        let mut uses: Vec<Use> = Vec::new();
        for (name, units, per_row) in wanted {
            let Some(at) = self.document.resources.iter().position(|draft| draft.name == name) else {
                let known = self.document.resources.iter().map(|draft| draft.name.as_str());
                let help = did_you_mean(name, known)
                    .unwrap_or_else(|| format!("declare it at the top level: `resources: {{ {name}: 4 }}`"));
                let message = format!("there is no resource `{name}`");
                self.report(Code::PlanUnknownResource, &["uses", name], message).help = Some(help);
                continue;
            };
            let resource = ResourceId(u32::try_from(at).expect("a file has fewer resources than bytes"));
            if uses.iter().any(|taken| taken.resource == resource) {
                let message = format!("`uses` names the resource `{name}` twice");
                self.report(Code::PlanBadOption, &["uses"], message);
                continue;
            }
            let slots = resources[at].as_ref().and_then(|resource| resource.slots);
            let counted = slots.map_or(at, ResourceId::index);
            match resources[counted].as_ref().map(|resource| resource.kind) {
                Some(ResourceKind::Units(all)) if per_row && slots.is_none() => {
                    let message =
                        format!("`per: row` has no meaning for `{name}`, which is not a rate but {all} unit(s)");
                    self.report(Code::PlanBadOption, &["uses", name, "per"], message).help =
                        Some(format!("write `{name}: {units}`, which an attempt has while it runs"));
                }
                Some(ResourceKind::Units(all)) if units > all && !per_row => {
                    let message = format!("{units} of `{name}` are never free: there are {all}");
                    self.report(Code::PlanBadOption, &["uses", name], message);
                }
                _ => {}
            }
            if per_row && kind.is_some_and(|kind| !is_given_rows(kind)) {
                let message = format!(
                    "the stage `{}` is not given rows batch by batch, so that `per: row` has no meaning",
                    self.draft.name
                );
                self.report(Code::PlanBadOption, &["uses", name, "per"], message);
            }
            if let (true, Some(kind @ StageKind::Python(python))) = (per_row, kind)
                && python.convention.is_none()
                && is_given_rows(kind)
            {
                let message = "`per: row` needs to know whether the function is given one row at a time";
                self.report(Code::PlanBadOption, &["uses", name, "per"], message).help =
                    Some("say so: `python: { call: module:name, as: row }`; or another form, in which all rows of a batch are taken for at once".to_owned());
            }
            if let (Some(StageKind::Python(python)), Some(true)) =
                (kind, resources[at].as_ref().map(|resource| resource.devices.is_some()))
                && (python.is_source || !python.partition_by.is_empty() || python.is_stream())
            {
                let what = if python.is_source { "a generator" } else { "a stage with state" };
                let message = format!(
                    "the stage `{}` cannot use `{name}`: a worker has its units for its life, and one of {what} lives until the end of the stage",
                    self.draft.name
                );
                self.report(Code::PlanBadOption, &["uses", name], message).help = Some(
                    "let a stage without state use it; or declare it as a number, which only counts: what uses it is not told which units it has".to_owned(),
                );
            }
            uses.push(Use { resource, units, per_row });
            // Rows are counted by the rate, attempts by the slots.
            let taken = if per_row { 1 } else { units };
            uses.extend(slots.map(|resource| Use { resource, units: taken, per_row: false }));
        }
        uses
    }
}

fn is_given_rows(kind: &StageKind) -> bool {
    match kind {
        StageKind::Python(python) => !python.is_source && python.partition_by.is_empty() && !python.is_stream(),
        StageKind::Command(command) => command.mode != CommandMode::Once,
        StageKind::Read(_) | StageKind::Write(_) | StageKind::Sql(_) | StageKind::Expect(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_so_much_in_so_long() {
        let close = |text: &str, rate: f64| (per_second(text).expect("a rate") - rate).abs() < 1e-9;
        assert!(close("100/min", 100.0 / 60.0) && close(" 5 / s ", 5.0) && close("0.5/s", 0.5) && close("7200/h", 2.0));
        for text in ["100", "100/week", "-1/s", "0/s", "nan/s", "inf/s", "/s", "1/", "1e300/s"] {
            assert_eq!(per_second(text), None, "{text}");
        }
        assert_eq!([usual_burst(1.7), usual_burst(100.0), usual_burst(1e9)], [1, 10, 100_000_000]);
    }
}
