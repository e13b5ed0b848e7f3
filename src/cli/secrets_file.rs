//! `--secrets-file`: what `${{ secrets.NAME }}` stands for.

use std::collections::BTreeMap;
use std::path::Path;

use super::exit_code::Exit;
use super::output;

/// The secrets in a file, by their names; prints why there are none.
///
/// # Errors
/// How the program should end if the file cannot be read, or has something else.
pub fn read(file: &Path) -> Result<BTreeMap<String, String>, Exit> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        output::complain(&format!("cannot read the secrets in `{}`: {error}", file.display()));
        Exit::Usage
    })?;
    let lines = text.lines().enumerate().map(|(at, line)| (at, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(at, line)| match line.split_once('=') {
            // As shells have it, whose files these often are.
            Some((name, value)) if !name.trim().is_empty() && !value.contains('\0') => {
                let name = name.trim().strip_prefix("export ").unwrap_or(name).trim();
                Ok((name.to_owned(), unquoted(value.trim()).to_owned()))
            }
            // The line itself may be a secret.
            _ => {
                output::complain(&format!(
                    "`{}` line {}: a secret is a line NAME=value, without a zero byte",
                    file.display(),
                    at + 1
                ));
                Err(Exit::Usage)
            }
        })
        .collect()
}

fn unquoted(text: &str) -> &str {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}
