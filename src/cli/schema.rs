//! `millpond schema`: the JSON Schema of pipeline files, of test files, and of summaries; for people, the first as a page.

use super::args::{SchemaArgs, SchemaOf};
use super::exit_code::Exit;
use super::output;
use crate::report::{PlanReport, RunSummary};
use crate::spec::{reference, schema as pipeline};

pub fn schema(args: &SchemaArgs) -> Exit {
    output::print(&match args.of {
        SchemaOf::Pipeline => pipeline::text(),
        SchemaOf::Test => pipeline::tests_text(),
        SchemaOf::Plan => PlanReport::schema(),
        SchemaOf::Summary => RunSummary::schema(),
        SchemaOf::Reference => reference::markdown(),
    })
}
