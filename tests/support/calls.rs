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

    /// From when to when each call went on, in seconds, by its name: the two numbers that it has noted.
    pub fn times(&self) -> Vec<(String, (f64, f64))> {
        let number = |text: Option<&str>| text.expect("two numbers").parse::<f64>().expect("a number");
        let times = |name: String| {
            let text = self.read(&format!("{CALLED}/{name}"));
            let mut words = text.split_whitespace();
            let times = (number(words.next()), number(words.next()));
            (name, times)
        };
        self.called().into_iter().map(times).collect()
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

/// The most calls at one moment.
pub fn most_at_once(times: &[(f64, f64)]) -> usize {
    let at = |moment: f64| times.iter().filter(|(began, ended)| *began <= moment && moment < *ended).count();
    times.iter().map(|(began, _)| at(*began)).max().unwrap_or(0)
}
