//! `millpond graph`: the graph of the stages. Touches no data and needs no Python.

use super::args::{GraphArgs, GraphFormat, ParamArgs, WorkerArgs};
use super::exit_code::Exit;
use super::load::{self, Extent};
use super::output;
use crate::diagnostic::SourceText;
use crate::plan::{Plan, drawing, view};
use crate::secrets::masked;
use crate::spec::model::ParamType;
use crate::spec::{self, Completeness, Param};

pub fn graph(args: &GraphArgs) -> Exit {
    match plan(args) {
        Ok(plan) => output::print(&match args.format {
            GraphFormat::Text => view::graph_text(&plan),
            GraphFormat::Mermaid => view::mermaid(&plan),
            GraphFormat::Dot => view::dot(&plan),
            GraphFormat::Svg => drawing::svg(&plan, &|text| masked(text).into_owned()),
        }),
        Err(exit) => exit,
    }
}

/// The plan. A graph is the same whatever the values of params are, mostly: those that are required and not given stand for themselves.
fn plan(args: &GraphArgs) -> Result<Plan, Exit> {
    let given = load::given(&args.params, Completeness::Full)?;
    let source = load::read(&args.file)?;
    let params = spec::parse(&source, &given).params;
    let missing =
        params.iter().filter(|param| param.required && !given.set.iter().any(|(name, _)| *name == param.name));
    let stand_ins: Vec<(String, String)> =
        missing.filter_map(|param| Some((param.name.clone(), stand_in(param)?))).collect();
    let workers = WorkerArgs { workers: None, memory: None };
    if !stand_ins.is_empty() {
        let mut set = stand_ins;
        set.extend(args.params.set.iter().cloned());
        let guessed = load::given(&ParamArgs { set, ..args.params.clone() }, Completeness::Full)?;
        let mut tell_nobody = |_: &[crate::diagnostic::Diagnostic], _: &SourceText| {};
        if let Ok(plan) = load::plan_of(&args.file, &guessed, &workers, Extent::Whole, &mut tell_nobody) {
            return Ok(plan);
        }
    }
    // What is missing is told.
    load::plan(&args.file, &args.params, &workers, Extent::Whole)
}

/// A value that a param may have.
fn stand_in(param: &Param) -> Option<String> {
    let allowed = &param.allowed;
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Some(choice) = allowed.choices.as_ref().and_then(|choices| choices.first()) {
        return Some(text(choice));
    }
    Some(match param.kind? {
        // The end of a name may be what tells a format.
        ParamType::Path => format!("{}.csv", param.name),
        ParamType::String => param.name.clone(),
        ParamType::Boolean => "true".to_owned(),
        ParamType::Integer | ParamType::Float => {
            allowed.min.as_ref().or(allowed.max.as_ref()).map_or_else(|| "1".to_owned(), |bound| bound.to_string())
        }
    })
}
