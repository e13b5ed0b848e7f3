//! [`svg`]: the graph of a plan as a picture.
//!
//! Layers from left to right (Sugiyama, Tagawa, Toda 1981): a stage lies right of all that it needs; what connects stages that are not next
//! to each other passes through a place of its own in every layer between them; the places of a layer are ordered by those of their
//! neighbours, again and again, so that few lines cross.

use std::fmt::Write;

use super::plan::Plan;
use super::stage::{Port, Stage};
use super::view::{hooks_of, kind_text};
use crate::spec::Moment;

/// Pixels.
const NODE_HEIGHT: f64 = 44.0;
const ROW_GAP: f64 = 18.0;
const LAYER_GAP: f64 = 64.0;
const MARGIN: f64 = 20.0;
const LETTER: f64 = 7.4;
const SMALL_LETTER: f64 = 6.2;
const PADDING: f64 = 14.0;
const LINE_ROOM: f64 = 10.0;
/// Letters of a node's second line.
const LONGEST_DETAIL: usize = 34;
/// Times that the places are ordered by their neighbours, in each direction.
const SWEEPS: usize = 8;
/// Places for lines between layers, beyond which long lines are drawn straight.
const MOST_PLACES: usize = 50_000;

const STYLE: &str = "svg{--back:#fff;--ink:#1b1f24;--dim:#59636e;--box:#f6f8fa;--rim:#d1d9e0;--read:#1a7f37;--write:#8250df;--sql:#0969da;--expect:#0969da;--python:#9a6700;--command:#59636e}\
@media(prefers-color-scheme:dark){svg{--back:#0d1117;--ink:#f0f6fc;--dim:#9198a1;--box:#151b23;--rim:#3d444d;--read:#3fb950;--write:#ab7df8;--sql:#4493f8;--expect:#4493f8;--python:#d29922;--command:#9198a1}}\
text{font-family:ui-sans-serif,system-ui,sans-serif;fill:var(--ink)}.name{font-size:13px;font-weight:600}.what{font-size:11px;fill:var(--dim)}\
.box{fill:var(--box);stroke:var(--rim)}.edge{fill:none;stroke:var(--dim);stroke-width:1.4}.after{stroke-dasharray:4 4}.port{font-size:10px;fill:var(--dim)}";

/// A stage, or the place of a line in a layer between two stages.
#[derive(Clone, Debug)]
struct Place {
    layer: usize,
    height: f64,
    y: f64,
    before: Vec<usize>,
    behind: Vec<usize>,
}

/// A line from a stage to another, through places.
struct Connection {
    way: Vec<usize>,
    label: String,
    is_wait: bool,
}

/// A picture that can be read in a light and in a dark surrounding. Every stage has its description as what is shown when one points at it.
/// `told` says what may be told of a text: it is asked before a text is cut, as nothing is found in half of it.
pub fn svg(plan: &Plan, told: &dyn Fn(&str) -> String) -> String {
    let mut places: Vec<Place> = layers(plan)
        .into_iter()
        .map(|layer| Place { layer, height: NODE_HEIGHT, y: 0.0, before: Vec::new(), behind: Vec::new() })
        .collect();
    let connections = connections(plan, &mut places);
    let count = places.iter().map(|place| place.layer + 1).max().unwrap_or(0);
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); count];
    places.iter().enumerate().for_each(|(at, place)| layers[place.layer].push(at));
    order(&mut layers, &places);
    align(&layers, &mut places);
    let details: Vec<String> = plan.stages.iter().map(|stage| detail(&told(&kind_text(plan, stage)))).collect();
    draw(plan, &details, &layers, &places, &connections, told)
}

/// The layer of every stage: behind the last one that it needs.
fn layers(plan: &Plan) -> Vec<usize> {
    let mut layers = vec![0; plan.stages.len()];
    for stage in &plan.stages {
        let inputs = stage.inputs.iter().flat_map(|input| &input.members).map(|edge| plan.edge(*edge).from);
        let before = inputs.chain(stage.after.iter().copied()).map(|id| layers[id.index()] + 1);
        layers[stage.id.index()] = before.max().unwrap_or(0);
    }
    layers
}

fn connections(plan: &Plan, places: &mut Vec<Place>) -> Vec<Connection> {
    let edges = plan.edges.iter().map(|edge| {
        let port = plan.stage(edge.from).port_word(edge.port);
        (edge.from, edge.to, if port == Port::MAIN { String::new() } else { port.to_owned() }, false)
    });
    let waits = plan.stages.iter().flat_map(|stage| {
        stage.after.iter().map(|awaited| (*awaited, stage.id, String::new(), true)).collect::<Vec<_>>()
    });
    let ends: Vec<_> = edges.chain(waits).collect();
    ends.into_iter()
        .map(|(from, to, label, is_wait)| {
            let mut way = vec![from.index()];
            let between = places[from.index()].layer + 1..places[to.index()].layer;
            if places.len() + between.len() <= MOST_PLACES {
                for layer in between {
                    way.push(places.len());
                    places.push(Place { layer, height: LINE_ROOM, y: 0.0, before: Vec::new(), behind: Vec::new() });
                }
            }
            way.push(to.index());
            for pair in way.windows(2) {
                places[pair[0]].behind.push(pair[1]);
                places[pair[1]].before.push(pair[0]);
            }
            Connection { way, label, is_wait }
        })
        .collect()
}

/// Orders the places of each layer by the middle of their neighbours in the layer before, and then behind.
fn order(layers: &mut [Vec<usize>], places: &[Place]) {
    let mut rank = vec![0.0; places.len()];
    for layer in layers.iter() {
        layer.iter().enumerate().for_each(|(at, place)| rank[*place] = at as f64);
    }
    for sweep in 0..SWEEPS {
        let forth = sweep % 2 == 0;
        let count = layers.len();
        for step in 1..count {
            let layer = &mut layers[if forth { step } else { count - 1 - step }];
            let middle = |place: &usize| {
                let neighbours = if forth { &places[*place].before } else { &places[*place].behind };
                mean(neighbours.iter().map(|other| rank[*other])).unwrap_or(rank[*place])
            };
            let mut keyed: Vec<(f64, usize)> = layer.iter().map(|place| (middle(place), *place)).collect();
            keyed.sort_by(|one, other| one.0.total_cmp(&other.0));
            *layer = keyed.into_iter().map(|(_, place)| place).collect();
            layer.iter().enumerate().for_each(|(at, place)| rank[*place] = at as f64);
        }
    }
}

/// Gives every place its height in the picture: near its neighbours, in the order of its layer, with room between.
fn align(layers: &[Vec<usize>], places: &mut [Place]) {
    for layer in layers {
        let mut y = 0.0;
        for &at in layer {
            y += places[at].height / 2.0;
            places[at].y = y;
            y += places[at].height / 2.0 + ROW_GAP;
        }
    }
    for sweep in 0..SWEEPS {
        let forth = sweep % 2 == 0;
        for step in 0..layers.len() {
            let layer = &layers[if forth { step } else { layers.len() - 1 - step }];
            let wanted: Vec<f64> = layer
                .iter()
                .map(|&at| {
                    let neighbours = if forth { &places[at].before } else { &places[at].behind };
                    mean(neighbours.iter().map(|other| places[*other].y)).unwrap_or(places[at].y)
                })
                .collect();
            spread(layer, &wanted, places);
        }
    }
    let top = places.iter().map(|place| place.y - place.height / 2.0).fold(f64::INFINITY, f64::min);
    places.iter_mut().for_each(|place| place.y += MARGIN - top);
}

/// Places of a layer that would overlap where they want to be are moved apart as a group, so that the group stays where its members want it
/// to be in the mean.
fn spread(layer: &[usize], wanted: &[f64], places: &mut [Place]) {
    struct Group {
        first: usize,
        members: usize,
        /// Of the first member, if all are where they want to be.
        sum: f64,
        length: f64,
    }
    let mut groups: Vec<Group> = Vec::new();
    let gap = |at: usize| (places[layer[at]].height + places[layer[at + 1]].height) / 2.0 + ROW_GAP;
    for (at, &y) in wanted.iter().enumerate() {
        let mut group = Group { first: at, members: 1, sum: y, length: 0.0 };
        while let Some(before) = groups.last() {
            let end = before.sum / before.members as f64 + before.length;
            let room = gap(group.first - 1);
            if end + room <= group.sum / group.members as f64 {
                break;
            }
            let before = groups.pop().expect("there is one");
            let shift = before.length + room;
            group = Group {
                first: before.first,
                members: before.members + group.members,
                sum: before.sum + group.sum - shift * group.members as f64,
                length: shift + group.length,
            };
        }
        groups.push(group);
    }
    let mut ys = vec![0.0; layer.len()];
    for group in &groups {
        let mut y = group.sum / group.members as f64;
        let end = group.first + group.members;
        for (at, place) in ys.iter_mut().enumerate().take(end).skip(group.first) {
            *place = y;
            if at + 1 < end {
                y += gap(at);
            }
        }
    }
    layer.iter().zip(ys).for_each(|(at, y)| places[*at].y = y);
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

fn draw(
    plan: &Plan,
    details: &[String],
    layers: &[Vec<usize>],
    places: &[Place],
    connections: &[Connection],
    told: &dyn Fn(&str) -> String,
) -> String {
    let widths: Vec<f64> = plan.stages.iter().map(|stage| width_of(stage, &details[stage.id.index()])).collect();
    let mut left = vec![MARGIN; layers.len()];
    let widest = |layer: &Vec<usize>| layer.iter().filter_map(|at| widths.get(*at)).copied().fold(0.0, f64::max);
    for layer in 1..layers.len() {
        left[layer] = left[layer - 1] + widest(&layers[layer - 1]) + LAYER_GAP;
    }
    let right = layers.last().map_or(0.0, |last| left[layers.len() - 1] + widest(last)) + MARGIN;
    let bottom = places.iter().map(|place| place.y + place.height / 2.0).fold(0.0, f64::max);
    let hooks = HookRow::all(plan, bottom, told);
    let bottom = hooks.last().map_or(bottom, |row| row.y + NODE_HEIGHT) + MARGIN;
    let right = hooks.iter().map(|row| row.right() + MARGIN).fold(right, f64::max);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{right:.0}\" height=\"{bottom:.0}\" viewBox=\"0 0 {right:.0} {bottom:.0}\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\" fill=\"var(--dim)\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"var(--back)\"/>\n",
        escaped(&plan.name)
    );
    for connection in connections {
        let class = if connection.is_wait { "edge after" } else { "edge" };
        let (first, last) = (connection.way[0], connection.way[connection.way.len() - 1]);
        let start = left[places[first].layer] + widths[first];
        let mut path = format!("M{start:.1} {:.1}", places[first].y);
        let (mut x, mut y) = (start, places[first].y);
        for &at in &connection.way[1..] {
            let (enter, next) = (left[places[at].layer], places[at].y);
            let middle = (x + enter) / 2.0;
            let _ = write!(path, "C{middle:.1} {y:.1} {middle:.1} {next:.1} {enter:.1} {next:.1}");
            (x, y) = (enter, next);
            if at != last {
                // Straight through the layer, beside its stages.
                x += widest(&layers[places[at].layer]);
                let _ = write!(path, "H{x:.1}");
            }
        }
        let _ = writeln!(out, "<path class=\"{class}\" d=\"{path}\" marker-end=\"url(#tip)\"/>");
        if !connection.label.is_empty() {
            let _ = writeln!(
                out,
                "<text class=\"port\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x - PADDING,
                y - 6.0,
                escaped(&connection.label)
            );
        }
    }
    for (stage, width) in plan.stages.iter().zip(&widths) {
        let place = &places[stage.id.index()];
        node(&mut out, stage, &details[stage.id.index()], left[place.layer], place.y - NODE_HEIGHT / 2.0, *width);
    }
    for row in &hooks {
        let _ = writeln!(
            out,
            "<text class=\"port\" x=\"{MARGIN:.1}\" y=\"{:.1}\">{}</text>",
            row.y - 6.0,
            row.moment.key()
        );
        for (hook, detail, x, width) in &row.nodes {
            node(&mut out, hook, detail, *x, row.y, *width);
        }
    }
    out.push_str("</svg>\n");
    out
}

/// The hooks of one moment, side by side.
struct HookRow<'a> {
    moment: Moment,
    /// The top of its nodes.
    y: f64,
    /// With their details, left ends and widths.
    nodes: Vec<(&'a Stage, String, f64, f64)>,
}

impl<'a> HookRow<'a> {
    /// Those of all moments that have hooks, from `top` on.
    fn all(plan: &'a Plan, top: f64, told: &dyn Fn(&str) -> String) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        for moment in Moment::ALL {
            let mut x = MARGIN;
            let hooks = hooks_of(plan, moment).map(|stage| {
                let detail = detail(&told(&kind_text(plan, stage)));
                let (at, width) = (x, width_of(stage, &detail));
                x += width + ROW_GAP;
                (stage, detail, at, width)
            });
            let nodes: Vec<_> = hooks.collect();
            if !nodes.is_empty() {
                let y = rows.last().map_or(top, |row| row.y + NODE_HEIGHT) + ROW_GAP + LINE_ROOM;
                rows.push(Self { moment, y, nodes });
            }
        }
        rows
    }

    fn right(&self) -> f64 {
        self.nodes.last().map_or(0.0, |(_, _, x, width)| x + width)
    }
}

fn width_of(stage: &Stage, detail: &str) -> f64 {
    let (name, what) = (stage.name.chars().count() as f64, detail.chars().count() as f64);
    (name * LETTER).max(what * SMALL_LETTER) + 2.0 * PADDING
}

fn node(out: &mut String, stage: &Stage, detail: &str, x: f64, y: f64, width: f64) {
    let title = stage
        .description
        .as_deref()
        .map_or_else(String::new, |text| format!("<title>{}</title>", escaped(text.trim())));
    let _ = writeln!(
        out,
        "<g>{title}<rect class=\"box\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{NODE_HEIGHT}\" rx=\"6\"/>\
         <rect x=\"{x:.1}\" y=\"{:.1}\" width=\"4\" height=\"{}\" rx=\"2\" fill=\"var(--{})\"/>\
         <text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text><text class=\"what\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
        y + 6.0,
        NODE_HEIGHT - 12.0,
        stage.kind_word(),
        x + PADDING,
        y + 19.0,
        escaped(&stage.name),
        x + PADDING,
        y + 34.0,
        escaped(detail),
    );
}

/// What a stage does, in a few letters.
fn detail(text: &str) -> String {
    match text.char_indices().nth(LONGEST_DETAIL) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn escaped(text: &str) -> String {
    // What XML cannot hold, not even escaped, is left out.
    let text: String = text.chars().filter(|letter| !letter.is_control() || matches!(letter, '\n' | '\t')).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
