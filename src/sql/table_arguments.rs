//! Params among the arguments of table functions, such as `generate_series(1, $n)`.
//!
//! The engine calls table functions while it plans, before it binds params. So here, and here only, values take the places of
//! `$name` in the parsed query, as nodes of its tree and never as text.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Statement, TableFactor, UnaryOperator, Value, Visit, VisitMut, Visitor, VisitorMut,
};

/// Puts the values of params in the places where they are arguments of table functions.
pub(super) fn bind(statement: &mut Statement, params: &BTreeMap<String, serde_json::Value>) {
    let _ = statement.visit(&mut TableFunctions { params });
}

/// Whether functions stand among them, which the engine calls while it plans.
pub(super) fn call_functions(statement: &Statement) -> bool {
    statement.visit(&mut Calls { in_arguments: false }).is_break()
}

/// Stops at the first function among the arguments of a table function.
struct Calls {
    in_arguments: bool,
}

impl Visitor for Calls {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let mut arguments = Self { in_arguments: true };
        match factor {
            TableFactor::Table { args: Some(args), .. } => args.visit(&mut arguments),
            TableFactor::Function { args, .. } => args.visit(&mut arguments),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if self.in_arguments && matches!(expr, Expr::Function(_)) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

struct TableFunctions<'a> {
    params: &'a BTreeMap<String, serde_json::Value>,
}

impl VisitorMut for TableFunctions<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { args: Some(arguments), .. } => arguments.visit(&mut Arguments { params: self.params }),
            TableFactor::Function { args, .. } => args.visit(&mut Arguments { params: self.params }),
            _ => ControlFlow::Continue(()),
        }
    }
}

struct Arguments<'a> {
    params: &'a BTreeMap<String, serde_json::Value>,
}

impl VisitorMut for Arguments<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(name) = &value.value
            && let Some(param) = self.params.get(name.trim_start_matches('$'))
        {
            *expr = literal(param);
        }
        ControlFlow::Continue(())
    }
}

fn literal(param: &serde_json::Value) -> Expr {
    let value = |value: Value| Expr::Value(value.into());
    match param {
        serde_json::Value::String(text) => value(Value::SingleQuotedString(text.clone())),
        serde_json::Value::Bool(truth) => value(Value::Boolean(*truth)),
        serde_json::Value::Number(number) => match number.to_string().strip_prefix('-') {
            Some(digits) => Expr::UnaryOp {
                op: UnaryOperator::Minus,
                expr: Box::new(value(Value::Number(digits.to_owned(), false))),
            },
            None => value(Value::Number(number.to_string(), false)),
        },
        _ => value(Value::Null),
    }
}
