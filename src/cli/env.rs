//! `millpond env`.

use super::args::EnvBuildArgs;
use super::exit_code::Exit;
use super::output;

pub fn build(_args: &EnvBuildArgs) -> Exit {
    output::complain("`env build` is not built yet");
    Exit::Usage
}
