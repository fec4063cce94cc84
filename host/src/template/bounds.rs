//! How large the values of a template can get, found out before it runs.
//!
//! The engine counts steps, but one step can double a text, and forty steps can then fill any memory. So every
//! expression gets an upper bound of its size as JSON, with each variable of the data as large as all of the data. What
//! could pass the limit is refused; how large the largest can get also says how many steps may be taken.

use std::collections::HashMap;

use minijinja::machinery::{ast, parse};

/// Bytes that a value may come to.
const MAX_VALUE: f64 = 64.0 * 1024.0 * 1024.0;
/// Bytes of a number, a flag or a position.
const SMALL: f64 = 64.0;
/// Expressions looked at; macros are looked at again at each call, and loops twice.
const MAX_LOOKS: u32 = 100_000;
/// Macros that call macros.
const MAX_DEPTH: u32 = 4;

/// An upper bound in bytes of the largest value in the template `source` over data of `data` bytes.
pub(super) fn largest(source: &str, data: usize) -> Result<f64, String> {
    let parsed = parse(source, "<template>", minijinja::syntax::SyntaxConfig::default()).map_err(|e| super::explain(&e))?;
    #[expect(clippy::cast_precision_loss, reason = "a size far below 2^52")]
    let data = (data as f64).max(SMALL);
    let mut bounds = Bounds { data, names: HashMap::new(), macros: HashMap::new(), largest: data, looks: 0, depth: 0 };
    bounds.one(&parsed)?;
    Ok(bounds.largest)
}

struct Bounds<'t, 's> {
    data: f64,
    /// What the template itself has named.
    names: HashMap<&'s str, f64>,
    macros: HashMap<&'s str, &'t ast::Macro<'s>>,
    largest: f64,
    looks: u32,
    depth: u32,
}

type Found = Result<f64, String>;

impl<'t, 's> Bounds<'t, 's> {
    /// Notes a size, and refuses what is too large.
    fn size(&mut self, size: f64) -> Found {
        if size > MAX_VALUE {
            return Err("a value of this template could grow past 64 MiB".into());
        }
        self.largest = self.largest.max(size);
        Ok(size)
    }

    fn look(&mut self) -> Result<(), String> {
        self.looks += 1;
        if self.looks > MAX_LOOKS { Err("the template has too many loops or macros inside each other".into()) } else { Ok(()) }
    }

    /// Bytes that the statements write.
    fn all(&mut self, statements: &'t [ast::Stmt<'s>]) -> Found {
        statements.iter().try_fold(0.0, |sum, statement| Ok(sum + self.one(statement)?))
    }

    #[expect(clippy::cast_precision_loss, reason = "a size far below 2^52")]
    fn one(&mut self, statement: &'t ast::Stmt<'s>) -> Found {
        use ast::Stmt;
        self.look()?;
        match statement {
            Stmt::Template(template) => self.all(&template.children),
            Stmt::EmitRaw(raw) => Ok(raw.raw.len() as f64),
            // Escaped for HTML, a quote has six bytes.
            Stmt::EmitExpr(emit) => Ok(self.expr(&emit.expr)? * 6.0),
            Stmt::IfCond(cond) => {
                self.expr(&cond.expr)?;
                Ok(self.all(&cond.true_body)?.max(self.all(&cond.false_body)?))
            }
            Stmt::ForLoop(each) => self.each(each),
            Stmt::Set(set) => {
                let size = self.expr(&set.expr)?;
                self.bind(&set.target, size)?;
                Ok(0.0)
            }
            Stmt::SetBlock(set) if set.filter.is_none() => {
                let size = self.all(&set.body)?;
                self.size(size)?;
                self.bind(&set.target, size)?;
                Ok(0.0)
            }
            Stmt::WithBlock(with) => {
                for (target, value) in &with.assignments {
                    let size = self.expr(value)?;
                    self.bind(target, size)?;
                }
                self.all(&with.body)
            }
            Stmt::AutoEscape(escape) => {
                self.expr(&escape.enabled)?;
                self.all(&escape.body)
            }
            Stmt::Macro(declared) => {
                self.macros.insert(declared.name, declared);
                Ok(0.0)
            }
            _ => Err("a template may use if, for, set, with, macro and autoescape; other statements are not available".into()),
        }
    }

    fn each(&mut self, each: &'t ast::ForLoop<'s>) -> Found {
        if each.recursive {
            return Err("recursive loops are not available".into());
        }
        let items = self.expr(&each.iter)?;
        self.bind(&each.target, items)?;
        self.names.insert("loop", items);
        if let Some(filter) = &each.filter_expr {
            self.expr(filter)?;
        }
        let body = self.all(&each.body)?;
        // Once more: what is larger now grows with every round.
        let before = self.names.clone();
        self.all(&each.body)?;
        if self.names.iter().any(|(name, size)| before.get(name).is_none_or(|first| size > first)) {
            return Err("a value grows with every round of a loop".into());
        }
        Ok(body * items.max(1.0) + self.all(&each.else_body)?)
    }

    fn bind(&mut self, target: &'t ast::Expr<'s>, size: f64) -> Result<(), String> {
        match target {
            ast::Expr::Var(var) if self.macros.contains_key(var.id) => Err(format!("`{}` is a macro already", var.id)),
            ast::Expr::Var(var) => {
                let known = self.names.entry(var.id).or_insert(0.0);
                *known = known.max(size);
                Ok(())
            }
            ast::Expr::Tuple(tuple) => tuple.items.iter().try_for_each(|item| self.bind(item, size)),
            ast::Expr::List(list) => list.items.iter().try_for_each(|item| self.bind(item, size)),
            _ => Err("only names can be set".into()),
        }
    }

    fn sum(&mut self, items: &'t [ast::Expr<'s>]) -> Found {
        items.iter().try_fold(SMALL, |sum, item| Ok(sum + self.expr(item)?))
    }

    fn args(&mut self, args: &'t [ast::CallArg<'s>]) -> Found {
        args.iter().try_fold(0.0, |sum, arg| Ok(sum + self.expr(arg_expr(arg))?))
    }

    /// The size of an expression; an error names its line, the innermost one.
    fn expr(&mut self, expr: &'t ast::Expr<'s>) -> Found {
        let named = |why: String| if why.starts_with("line ") { why } else { format!("line {}: {why}", expr.span().start_line) };
        self.measured(expr).map_err(named)
    }

    fn measured(&mut self, expr: &'t ast::Expr<'s>) -> Found {
        use ast::Expr;
        self.look()?;
        let size = match expr {
            Expr::Var(var) => self.names.get(var.id).map_or(self.data, |named| named.max(SMALL)),
            Expr::Const(constant) => constant_size(&constant.value),
            Expr::GetAttr(get) => self.expr(&get.expr)?,
            Expr::GetItem(get) => {
                self.expr(&get.subscript_expr)?;
                self.expr(&get.expr)?
            }
            Expr::Slice(slice) => {
                for part in [&slice.start, &slice.stop, &slice.step].into_iter().flatten() {
                    self.expr(part)?;
                }
                self.expr(&slice.expr)?
            }
            Expr::UnaryOp(op) => self.expr(&op.expr)?.min(SMALL),
            Expr::BinOp(op) => self.binary(op)?,
            Expr::Compare(compare) => {
                self.expr(&compare.expr)?;
                for op in &compare.ops {
                    self.expr(&op.expr)?;
                }
                SMALL
            }
            Expr::IfExpr(cond) => {
                self.expr(&cond.test_expr)?;
                let other = cond.false_expr.as_ref().map_or(Ok(0.0), |other| self.expr(other))?;
                self.expr(&cond.true_expr)?.max(other)
            }
            Expr::Filter(filter) => {
                let Some(value) = &filter.expr else { return Err("a filter needs a value here".into()) };
                let (value, items) = (self.expr(value)?, items(value));
                self.filter(filter.name, value, items, &filter.args)?
            }
            Expr::Test(test) => {
                if !TESTS.contains(&test.name) {
                    return Err(format!("the test `{}` is not available", test.name));
                }
                self.expr(&test.expr)?;
                self.args(&test.args)?;
                SMALL
            }
            Expr::Call(call) => self.call(call)?,
            Expr::List(list) => self.sum(&list.items)?,
            Expr::Tuple(tuple) => self.sum(&tuple.items)?,
            Expr::Map(map) => self.sum(&map.keys)? + self.sum(&map.values)?,
        };
        self.size(size)
    }

    fn binary(&mut self, op: &'t ast::BinOp<'s>) -> Found {
        use ast::BinOpKind as Kind;
        let (left, right) = (self.expr(&op.left)?, self.expr(&op.right)?);
        // A list that becomes a text gets quotes, and those are escaped in turn.
        let text = |expr: &ast::Expr<'_>, size: f64| if is_text(expr) { size } else { size * 3.0 };
        match op.op {
            Kind::ScAnd | Kind::ScOr => Ok(left.max(right)),
            Kind::Concat | Kind::Add if is_number(&op.left) && is_number(&op.right) => Ok(SMALL * 2.0),
            Kind::Concat | Kind::Add => Ok(text(&op.left, left) + text(&op.right, right)),
            Kind::Mul if is_number(&op.left) && is_number(&op.right) => Ok(SMALL),
            Kind::Mul => match (number(&op.left), number(&op.right)) {
                (Some(times), _) => Ok(right * times.max(1.0)),
                (_, Some(times)) => Ok(left * times.max(1.0)),
                _ => Err("`*` needs numbers: write `a|float * b|float`".into()),
            },
            _ => Ok(SMALL),
        }
    }

    fn call(&mut self, call: &'t ast::Call<'s>) -> Found {
        let ast::Expr::Var(var) = &call.expr else {
            return Err("only macros of the template, `range` and `dict` can be called".into());
        };
        let given = call.args.iter().map(|arg| self.expr(arg_expr(arg))).collect::<Result<Vec<f64>, String>>()?;
        if let Some(called) = self.macros.get(var.id).copied() {
            return self.expand(called, &given);
        }
        match var.id {
            "range" => {
                let most = call.args.iter().map(|arg| number(arg_expr(arg)).unwrap_or(100_000.0)).fold(0.0, f64::max);
                Ok(most.min(100_000.0) * 8.0 + SMALL)
            }
            "dict" => Ok(given.iter().sum::<f64>() + SMALL),
            other => Err(format!("there is no macro and no function `{other}`")),
        }
    }

    /// What a macro writes when it is called with values of these sizes.
    fn expand(&mut self, called: &'t ast::Macro<'s>, given: &[f64]) -> Found {
        if self.depth == MAX_DEPTH {
            return Err("macros call each other too deep".into());
        }
        self.depth += 1;
        let outer = self.names.clone();
        // Any argument may be meant for any parameter.
        let mut most = given.iter().copied().fold(SMALL, f64::max);
        for default in &called.defaults {
            most = most.max(self.expr(default)?);
        }
        for arg in &called.args {
            self.bind(arg, most)?;
        }
        let written = self.all(&called.body);
        self.names = outer;
        self.depth -= 1;
        Ok(written?.max(SMALL))
    }

    fn filter(&mut self, name: &str, value: f64, items: Option<usize>, args: &'t [ast::CallArg<'s>]) -> Found {
        let given = self.args(args)?;
        // A count of spaces; without a number in the template's text it could be any.
        let spaces = || args.iter().map(|arg| count(arg_expr(arg))).sum::<Option<f64>>();
        Ok(match name {
            "length" | "count" | "int" | "float" | "abs" | "round" | "bool" => SMALL,
            "default" | "d" => value.max(given),
            "trim" | "safe" | "first" | "last" | "min" | "max" | "sort" | "reverse" | "unique" | "select" | "reject" | "selectattr"
            | "rejectattr" | "attr" | "sum" => value,
            "items" | "dictsort" | "groupby" => value * 4.0,
            "chain" | "zip" => (value + given) * 4.0,
            "lower" | "upper" | "title" | "capitalize" | "urlencode" | "string" => value * 3.0,
            "list" | "split" | "lines" => value * 24.0,
            "escape" | "e" => value * 6.0,
            "tojson" => value * (3.0 + spaces().ok_or("tojson: write the indent as a number")?),
            "indent" => value * (2.0 + spaces().ok_or("indent: write its width as a number")?),
            // As JSON an item has two bytes or more, and a byte of the separator at most six.
            "join" if separator(args).is_some() => value * 3.0 * (1.0 + separator(args).unwrap_or_default()),
            #[expect(clippy::cast_precision_loss, reason = "a size far below 2^52")]
            "join" if items.is_some() => value * 3.0 + given * items.unwrap_or_default() as f64,
            "join" | "replace" => value * 3.0 * (1.0 + given),
            "map" => match args {
                [ast::CallArg::Pos(ast::Expr::Const(filter)), rest @ ..] if filter.value.as_str() != Some("map") => {
                    self.filter(filter.value.as_str().unwrap_or_default(), value, None, rest)?
                }
                [ast::CallArg::Kwarg("attribute", _)] => value,
                [ast::CallArg::Kwarg("attribute", _), ast::CallArg::Kwarg("default", _)] => value * (1.0 + given),
                _ => return Err("map: name a filter or an attribute".into()),
            },
            _ => return Err(format!("the filter `{name}` is not available")),
        })
    }
}

/// What may stand behind `is`.
#[rustfmt::skip]
const TESTS: &[&str] = &[
    "defined", "undefined", "none", "boolean", "true", "false", "number", "integer", "int", "float", "string", "sequence", "iterable",
    "mapping", "odd", "even", "divisibleby", "lower", "upper", "startingwith", "endingwith", "sameas", "eq", "equalto", "ne", "lt",
    "lessthan", "le", "gt", "greaterthan", "ge", "in", "safe", "escaped",
];

/// Bytes of the separator that stands in the template's text; none is the empty one.
#[expect(clippy::cast_precision_loss, reason = "a size far below 2^52")]
fn separator(args: &[ast::CallArg<'_>]) -> Option<f64> {
    match args {
        [] => Some(0.0),
        [ast::CallArg::Pos(ast::Expr::Const(text))] => text.value.as_str().map(|text| text.len() as f64),
        _ => None,
    }
}

fn arg_expr<'t, 's>(arg: &'t ast::CallArg<'s>) -> &'t ast::Expr<'s> {
    match arg {
        ast::CallArg::Pos(expr) | ast::CallArg::Kwarg(_, expr) | ast::CallArg::PosSplat(expr) | ast::CallArg::KwargSplat(expr) => expr,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a size far below 2^52")]
fn constant_size(value: &minijinja::Value) -> f64 {
    match value.as_str() {
        // As JSON: most characters are one byte, control characters six.
        Some(text) => text.chars().map(|c| if c.is_control() { 6 } else { c.len_utf8() * 2 }).sum::<usize>() as f64 + 2.0,
        None => value.to_string().len() as f64 + SMALL,
    }
}

/// How many items a list has that is written out in the template.
fn items(expr: &ast::Expr<'_>) -> Option<usize> {
    match expr {
        ast::Expr::List(list) => Some(list.items.len()),
        ast::Expr::Tuple(tuple) => Some(tuple.items.len()),
        ast::Expr::Filter(filter) if matches!(filter.name, "select" | "reject" | "sort" | "reverse" | "unique") => {
            filter.expr.as_ref().and_then(items)
        }
        _ => None,
    }
}

/// The number that stands in the template's text.
fn number(expr: &ast::Expr<'_>) -> Option<f64> {
    match expr {
        ast::Expr::Const(constant) if constant.value.is_number() => f64::try_from(constant.value.clone()).ok().map(f64::abs),
        _ => None,
    }
}

/// The same for a count of spaces, which may also be a flag or a short text.
#[expect(clippy::cast_precision_loss, reason = "a size far below 2^52")]
fn count(expr: &ast::Expr<'_>) -> Option<f64> {
    match expr {
        ast::Expr::Const(constant) => number(expr).or_else(|| Some(constant.value.as_str().map_or(1, str::len) as f64)),
        _ => None,
    }
}

fn is_number(expr: &ast::Expr<'_>) -> bool {
    use ast::BinOpKind as Kind;
    match expr {
        ast::Expr::Const(constant) => constant.value.is_number(),
        ast::Expr::Filter(filter) => matches!(filter.name, "length" | "count" | "int" | "float" | "round"),
        ast::Expr::BinOp(op) => match op.op {
            Kind::Sub | Kind::Div | Kind::FloorDiv | Kind::Rem | Kind::Pow => true,
            Kind::Add | Kind::Mul => is_number(&op.left) && is_number(&op.right),
            _ => false,
        },
        _ => false,
    }
}

fn is_text(expr: &ast::Expr<'_>) -> bool {
    match expr {
        ast::Expr::Const(_) => true,
        ast::Expr::BinOp(op) => matches!(op.op, ast::BinOpKind::Concat),
        ast::Expr::Filter(filter) => matches!(
            filter.name,
            "trim" | "lower" | "upper" | "title" | "capitalize" | "urlencode" | "string" | "escape" | "e" | "tojson" | "join" | "replace"
        ),
        _ => false,
    }
}
