//! `millpond schema`: the JSON Schema of pipeline files.

use super::exit_code::Exit;
use super::output;
use crate::spec::schema;

pub fn schema() -> Exit {
    output::print(&schema::text())
}
