//! [`junit`]: what came of tests, as XML that CI servers read.

use std::fmt::Write as _;
use std::time::Duration;

/// The tests of one file.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The path of the file.
    pub name: String,
    pub cases: Vec<Case>,
}

/// What came of one test.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub time: Duration,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// Why, without colours.
    Failed(String),
}

impl Suite {
    fn failed(&self) -> usize {
        self.cases.iter().filter(|case| case.verdict != Verdict::Passed).count()
    }

    fn time(&self) -> f64 {
        self.cases.iter().map(|case| case.time.as_secs_f64()).sum()
    }
}

/// The document, as the schema of Jenkins and its like has it.
pub fn junit(suites: &[Suite]) -> String {
    let tests: usize = suites.iter().map(|suite| suite.cases.len()).sum();
    let failed: usize = suites.iter().map(Suite::failed).sum();
    let time: f64 = suites.iter().map(Suite::time).sum();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        xml,
        "<testsuites name=\"millpond\" tests=\"{tests}\" failures=\"{failed}\" errors=\"0\" time=\"{time:.3}\">"
    );
    for suite in suites {
        let (name, tests, failed, time) = (attribute(&suite.name), suite.cases.len(), suite.failed(), suite.time());
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failed}\" errors=\"0\" skipped=\"0\" time=\"{time:.3}\">"
        );
        for case in &suite.cases {
            let (test, time) = (attribute(&case.name), case.time.as_secs_f64());
            let _ =
                write!(xml, "    <testcase name=\"{test}\" classname=\"{name}\" file=\"{name}\" time=\"{time:.3}\"");
            match &case.verdict {
                Verdict::Passed => xml.push_str("/>\n"),
                Verdict::Failed(why) => {
                    let first = attribute(why.lines().next().unwrap_or_default());
                    let _ = writeln!(xml, ">\n      <failure message=\"{first}\">{}</failure>", content(why));
                    xml.push_str("    </testcase>\n");
                }
            }
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// A text between tags. What XML cannot have in any form is replaced.
fn content(text: &str) -> String {
    let is_allowed = |letter: char| matches!(letter, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    let text: String = text.chars().map(|letter| if is_allowed(letter) { letter } else { '\u{fffd}' }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn attribute(text: &str) -> String {
    content(text).replace('"', "&quot;").replace('\n', "&#10;").replace('\t', "&#9;").replace('\r', "&#13;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_would_take_for_its_own_is_escaped() {
        let case = |name: &str, verdict| Case { name: name.to_owned(), time: Duration::from_millis(1500), verdict };
        let failed = Verdict::Failed("1 < 2 & \"x\"\n]]>\u{1b}".to_owned());
        let suite =
            Suite { name: "a.test.yaml".to_owned(), cases: vec![case("one", Verdict::Passed), case("a<b", failed)] };
        insta::assert_snapshot!(junit(&[suite]), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="millpond" tests="2" failures="1" errors="0" time="3.000">
          <testsuite name="a.test.yaml" tests="2" failures="1" errors="0" skipped="0" time="3.000">
            <testcase name="one" classname="a.test.yaml" file="a.test.yaml" time="1.500"/>
            <testcase name="a&lt;b" classname="a.test.yaml" file="a.test.yaml" time="1.500">
              <failure message="1 &lt; 2 &amp; &quot;x&quot;">1 &lt; 2 &amp; "x"
        ]]&gt;�</failure>
            </testcase>
          </testsuite>
        </testsuites>
        "#);
    }
}
