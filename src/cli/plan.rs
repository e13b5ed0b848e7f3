//! `millpond plan`: the compiled plan as text. Looks at the sizes and beginnings of files, and needs no Python.

use super::args::PlanArgs;
use super::exit_code::Exit;
use super::{load, output};
use crate::plan::view;

pub fn plan(args: &PlanArgs) -> Exit {
    let plan = load::plan(&args.file, &args.params, &args.workers)
        .and_then(|mut plan| load::keep_to_memory(&mut plan, &args.workers).map(|()| plan));
    match plan {
        Ok(plan) => output::print(&view::text(&plan)),
        Err(exit) => exit,
    }
}
