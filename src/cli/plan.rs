//! `millpond plan`: the compiled plan as text. Looks at the sizes and beginnings of files, and needs no Python.

use super::args::PlanArgs;
use super::exit_code::Exit;
use super::{load, output};
use crate::plan::view;

pub fn plan(args: &PlanArgs) -> Exit {
    match load::plan(&args.file, &args.params, &args.workers) {
        Ok(plan) => output::print(&view::text(&plan)),
        Err(exit) => exit,
    }
}
