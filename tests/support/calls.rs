//! Calls that a scene's functions and commands note, each as a file of its own in the folder `called`: `<what>-<anything>`.

use super::Scene;

const CALLED: &str = "called";

impl Scene {
    /// Makes the folder in which calls are noted.
    pub fn with_calls(self) -> Self {
        std::fs::create_dir(self.path(CALLED)).expect("a folder in ours");
        self
    }

    /// What the calls until now have noted, in the order of their names.
    pub fn called(&self) -> Vec<String> {
        let files = self.path(CALLED).read_dir().expect("a folder of ours");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name().into_string();
        let mut names: Vec<String> = files.map(|entry| name(entry).expect("a name of ours")).collect();
        names.sort();
        names
    }

    /// What the calls since this was asked last have noted.
    pub fn take_called(&self) -> Vec<String> {
        let names = self.called();
        for name in &names {
            std::fs::remove_file(self.path(CALLED).join(name)).expect("it is there");
        }
        names
    }
}

/// What was called, by the name of a file that notes it.
pub fn callee(name: &str) -> &str {
    name.split('-').next().expect("a part")
}
