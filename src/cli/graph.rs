//! `millpond graph`: the graph of the stages. Touches no data and needs no Python.

use super::args::{GraphArgs, GraphFormat, WorkerArgs};
use super::exit_code::Exit;
use super::load::{self, Extent};
use super::output;
use crate::plan::{drawing, view};
use crate::secrets::masked;

pub fn graph(args: &GraphArgs) -> Exit {
    match load::plan(&args.file, &args.params, &WorkerArgs { workers: None, memory: None }, Extent::Whole) {
        Ok(plan) => output::print(&match args.format {
            GraphFormat::Text => view::graph_text(&plan),
            GraphFormat::Mermaid => view::mermaid(&plan),
            GraphFormat::Dot => view::dot(&plan),
            GraphFormat::Svg => drawing::svg(&plan, &|text| masked(text).into_owned()),
        }),
        Err(exit) => exit,
    }
}
