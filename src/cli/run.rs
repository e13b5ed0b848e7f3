//! `millpond run`.

use super::args::RunArgs;
use super::exit_code::Exit;
use super::output;

pub fn run(_args: &RunArgs) -> Exit {
    output::complain("`run` is not built yet");
    Exit::Usage
}
