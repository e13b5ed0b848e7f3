//! SQL over Arrow batches: the only module that names DataFusion.

use std::collections::BTreeSet;

use datafusion::sql::parser::DFParser;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// A query whose syntax has been checked.
#[derive(Clone, Debug)]
pub struct Query {
    tables: Vec<String>,
    parameters: Vec<String>,
    is_row_wise: bool,
}

/// Why a text is not a query.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    pub message: String,
    /// 1-based, in the text of the query.
    pub line: Option<usize>,
    /// 1-based.
    pub column: Option<usize>,
}

impl Query {
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let failed = |message: String| {
            let place = message.rsplit_once(" at Line: ").and_then(|(_, place)| {
                let (line, column) = place.split_once(", Column: ")?;
                let digits: String = column.chars().take_while(char::is_ascii_digit).collect();
                Some((line.parse().ok()?, digits.parse().ok()?))
            });
            SyntaxError { message, line: place.map(|place| place.0), column: place.map(|place| place.1) }
        };
        let dialect = GenericDialect {};
        let mut statements =
            DFParser::parse_sql_with_dialect(text, &dialect).map_err(|error| failed(error.strip_backtrace()))?;
        let Some(statement) = statements.pop_front() else { return Err(failed("there is no query".to_owned())) };
        let (tables, _) = datafusion::sql::resolve::resolve_table_references(&statement, false)
            .map_err(|error| failed(error.strip_backtrace()))?;
        let tokens = Tokenizer::new(&dialect, text).tokenize().map_err(|error| failed(error.to_string()))?;
        let parameters: BTreeSet<String> = tokens
            .iter()
            .filter_map(|token| match token {
                Token::Placeholder(name) => name.strip_prefix('$').map(str::to_owned),
                _ => None,
            })
            .collect();
        let upper = text.to_uppercase();
        let is_row_wise =
            !["GROUP BY", "ORDER BY", "JOIN", "DISTINCT", "COUNT(", "SUM("].iter().any(|it| upper.contains(it));
        Ok(Self {
            tables: tables
                .iter()
                .map(|table| table.table().to_owned())
                .filter(|it| !text.contains(&format!("{it}(")))
                .collect(),
            parameters: parameters.into_iter().collect(),
            is_row_wise,
        })
    }

    pub fn tables(&self) -> &[String] {
        &self.tables
    }

    pub fn parameters(&self) -> &[String] {
        &self.parameters
    }

    pub fn is_row_wise(&self) -> bool {
        self.is_row_wise
    }
}
