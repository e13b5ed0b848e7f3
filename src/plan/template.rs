//! [`Template`]: an argument of a command that is run for each row, or of a task whose outputs have names.

/// Text with the values of columns in it, or the paths of outputs: `{column}`. `{{` and `}}` stand for the braces themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// As it is written.
    pub source: String,
    pub pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Column(String),
}

/// A brace without its partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoneBrace {
    Open,
    Close,
}

impl Template {
    /// # Errors
    /// [`LoneBrace`]
    pub fn parse(source: &str) -> Result<Self, LoneBrace> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if let Some(after) = after.strip_prefix(brace) {
                text.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(LoneBrace::Close);
            }
            let (column, after) = after.split_once('}').ok_or(LoneBrace::Open)?;
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Column(column.to_owned()));
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self { source: source.to_owned(), pieces })
    }

    /// The columns in it.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Column(column) => Some(column.as_str()),
            Piece::Text(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(source: &str) -> String {
        match Template::parse(source) {
            Ok(template) => template
                .pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Text(text) => format!("'{text}'"),
                    Piece::Column(column) => format!("<{column}>"),
                })
                .collect(),
            Err(brace) => format!("{brace:?}"),
        }
    }

    #[test]
    fn columns_stand_in_braces_and_braces_are_doubled() {
        assert_eq!(shape("--id={id}.{a b}"), "'--id='<id>'.'<a b>");
        assert_eq!(shape("{{{x}}}"), "'{'<x>'}'");
        assert_eq!(shape("awk '{{print $1}}'"), "'awk '{print $1}''");
        assert_eq!(shape(""), "");
        assert_eq!(shape("a{b"), "Open");
        assert_eq!(shape("a}b"), "Close");
    }
}
