//! Routing filters: a CEL expression over one lead, bounded before it runs, because it cannot be stopped while it does.

use std::sync::Arc;

use cel::common::ast::operators::{ADD, CONDITIONAL};
use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr};
use serde_json::{Map, Value, json};

/// Longest filter in bytes.
pub const MAX_FILTER_BYTES: usize = 4 << 10;
/// Entries of a list that `all`, `exists` and their like walk over.
const MAX_ITEMS: u64 = 1_000;
/// Steps times the bytes that one step may look at: some tens of milliseconds.
const MAX_WORK: u64 = 256 << 20;
/// Fields of a lead that a filter may name; below `fields` and `origin.ids` any name is the client's.
const LEAD: [&str; 14] = [
    "id",
    "created_at",
    "external_id",
    "title",
    "name",
    "company",
    "phone",
    "phones",
    "email",
    "emails",
    "comment",
    "value",
    "origin",
    "fields",
];

/// A compiled routing filter.
pub struct Filter {
    program: cel::Program,
    steps: Steps,
}

/// Steps of one run: those taken once, and those taken for each entry of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Steps {
    once: u64,
    each: u64,
}

/// Whether a lead goes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    #[allow(missing_docs)]
    Yes,
    /// The reason is there when the filter could not be answered for this lead, such as a field that it does not have.
    No(Option<String>),
}

impl Filter {
    /// Compiles a CEL expression and finds out what it may cost.
    pub fn new(source: &str) -> Result<Self, String> {
        if source.len() > MAX_FILTER_BYTES {
            return Err(format!("the filter is longer than {MAX_FILTER_BYTES} bytes"));
        }
        let program = Arc::new(cel::Env::stdlib()).compile(source).map_err(|e| e.to_string())?;
        let mut steps = Steps::default();
        count(program.expression(), false, &mut steps)?;
        Ok(Self { program, steps })
    }

    /// Whether the filter lets the data through. The error says why it was not tried.
    pub fn passes(&self, data: &Map<String, Value>) -> Result<Passed, String> {
        let (mut items, mut bytes) = (0, 64);
        data.values().for_each(|value| largest(value, &mut items, &mut bytes));
        if self.steps.each > 0 && items > MAX_ITEMS {
            return Err(format!("a list of this lead has {items} entries; a filter looks at {MAX_ITEMS} at most"));
        }
        let steps = self.steps.once + self.steps.each.saturating_mul(items);
        if steps.saturating_mul(bytes) > MAX_WORK {
            return Err("this lead is too large for this filter".into());
        }
        match self.run(data)? {
            Ok(cel::Value::Bool(true)) => Ok(Passed::Yes),
            Ok(cel::Value::Bool(false)) => Ok(Passed::No(None)),
            Ok(_) => Ok(Passed::No(Some("the filter gives neither true nor false".into()))),
            Err(error) => Ok(Passed::No(Some(explain(&error)))),
        }
    }

    fn run(&self, data: &Map<String, Value>) -> Result<Result<cel::Value, cel::ExecutionError>, String> {
        let mut context = cel::Context::with_env(Arc::new(cel::Env::stdlib()));
        for (name, value) in data {
            let value = cel::to_value(value).map_err(|e| e.to_string())?;
            context.add_variable_from_value(name.clone(), value);
        }
        Ok(self.program.execute(&context))
    }
}

/// Whether `source` is a filter that can work: it is tried over a lead that has everything.
pub fn check_filter(source: &str) -> Result<(), String> {
    let filter = Filter::new(source)?;
    names(filter.program.expression())?;
    let Value::Object(example) = example() else { return Ok(()) };
    match filter.run(&example)? {
        // A field of the client's own, which the example has not.
        Ok(cel::Value::Bool(_)) | Err(cel::ExecutionError::NoSuchKey(_)) => Ok(()),
        Ok(_) => Err("the filter must give true or false".into()),
        Err(error) => Err(explain(&error)),
    }
}

/// Never shows a value: it is a lead's.
fn explain(error: &cel::ExecutionError) -> String {
    use cel::ExecutionError as E;
    match error {
        E::NoSuchKey(name) => format!("the lead has no `{name}`"),
        E::UndeclaredReference(name) => format!("there is no `{name}`; a filter sees lead, event, config, project, entity and now"),
        E::NoSuchOverload(overload) => overload.to_string(),
        E::ValuesNotComparable(..) => "values of two kinds are compared, such as a text and a number".into(),
        E::DivisionByZero(_) | E::RemainderByZero(_) => "a division by zero".into(),
        E::IndexOutOfBounds(_) => "a list is shorter than that".into(),
        E::NotSupportedAsMethod { method, .. } => format!("`{method}` cannot be used on this kind of value"),
        E::InvalidArgumentCount { expected, actual } => format!("a function takes {expected} arguments, not {actual}"),
        _ => "the filter cannot be answered for this lead".into(),
    }
}

/// Counts the steps, and refuses what could take more than its length suggests.
fn count(expr: &IdedExpr, in_loop: bool, steps: &mut Steps) -> Result<(), String> {
    *if in_loop { &mut steps.each } else { &mut steps.once } += 1;
    if let Expr::Comprehension(inner) = &expr.expr {
        if in_loop || loops(&inner.iter_range) {
            return Err("`all`, `exists`, `exists_one` and `filter` cannot stand inside one another".into());
        }
        if matches!(inner.accu_init.expr, Expr::List(_)) && !keeps_items(&inner.loop_step, inner) {
            return Err("`map` is not available in a filter; write the condition inside `exists` or `all`".into());
        }
        count(&inner.iter_range, false, steps)?;
        return [&inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result]
            .into_iter()
            .try_for_each(|part| count(part, true, steps));
    }
    children(&expr.expr).into_iter().try_for_each(|child| count(child, in_loop, steps))
}

/// Whether there is a loop in it.
fn loops(expr: &IdedExpr) -> bool {
    matches!(expr.expr, Expr::Comprehension(_)) || children(&expr.expr).into_iter().any(loops)
}

/// Whether the list that a loop makes holds entries of the list it walks over, and nothing made of them.
fn keeps_items(step: &IdedExpr, of: &ComprehensionExpr) -> bool {
    let Expr::Call(call) = &step.expr else { return false };
    match (call.func_name.as_str(), &call.args[..]) {
        (ADD, [_, added]) => {
            matches!(&added.expr, Expr::List(list) if matches!(&list.elements[..], [one] if one.expr == Expr::Ident(of.iter_var.clone())))
        }
        (CONDITIONAL, [_, then, _]) => keeps_items(then, of),
        _ => false,
    }
}

/// Refuses names that no lead has: a slip of the pen would keep back every lead.
fn names(expr: &IdedExpr) -> Result<(), String> {
    if let Expr::Select(select) = &expr.expr
        && select.operand.expr == Expr::Ident("lead".into())
        && !LEAD.contains(&select.field.as_str())
    {
        return Err(format!("a lead has no `{}`; it has {}, and your own fields in `fields`", select.field, LEAD.join(", ")));
    }
    if let Expr::Comprehension(inner) = &expr.expr {
        return [&inner.iter_range, &inner.loop_step].into_iter().try_for_each(names);
    }
    children(&expr.expr).into_iter().try_for_each(names)
}

fn children(expr: &Expr) -> Vec<&IdedExpr> {
    match expr {
        Expr::Call(call) => call.target.iter().map(AsRef::as_ref).chain(&call.args).collect(),
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Struct(made) => made.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Comprehension(inner) => {
            vec![&inner.iter_range, &inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result]
        }
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// Entries of the longest list or object, and bytes of the longest text.
fn largest(value: &Value, items: &mut u64, bytes: &mut u64) {
    match value {
        Value::String(text) => *bytes = (*bytes).max(text.len() as u64),
        Value::Array(list) => {
            *items = (*items).max(list.len() as u64);
            list.iter().for_each(|value| largest(value, items, bytes));
        }
        Value::Object(map) => {
            *items = (*items).max(map.len() as u64);
            map.values().for_each(|value| largest(value, items, bytes));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A lead with everything in it, as filters see it.
fn example() -> Value {
    let text = "example";
    json!({
        "lead": {
            "id": text, "created_at": "2026-01-01T00:00:00Z", "external_id": text, "title": text, "name": text, "company": text,
            "phone": "+442079460958", "phones": ["+442079460958"], "email": "ada@example.com", "emails": ["ada@example.com"],
            "comment": text, "value": {"number": 1500.0, "amount": "1500.00", "currency": "GBP"},
            "origin": {"page": text, "referrer": text, "form": text, "ip": "192.0.2.1", "user_agent": text, "utm_source": text,
                "utm_medium": text, "utm_campaign": text, "utm_term": text, "utm_content": text, "ids": {}},
            "fields": {},
        },
        "event": null, "config": {}, "project": {"id": text, "external_id": text, "name": text}, "entity": text,
        "now": "2026-01-01T00:00:00Z",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(lead: Value) -> Map<String, Value> {
        Map::from_iter([("lead".to_owned(), lead), ("event".to_owned(), Value::Null)])
    }

    fn passes(source: &str, of: Value) -> Passed {
        check_filter(source).unwrap_or_else(|problem| panic!("{source}: {problem}"));
        Filter::new(source).unwrap().passes(&lead(of)).unwrap()
    }

    #[test]
    fn what_a_support_person_would_write_works() {
        let rich = json!({"value": {"number": 20000.0}, "origin": {"utm_source": "yandex"}, "phones": ["+79161234567"],
            "fields": {"car": "Lada", "tags": ["a", "vip"]}, "company": null, "title": "Call"});
        for yes in [
            "lead.value.number > 10000.0 && lead.origin.utm_source == 'yandex'",
            "lead.value.number > 10000",
            "lead.phones.exists(p, p.startsWith('+7'))",
            "lead.phones.filter(p, p.startsWith('+7')).size() == 1",
            "'vip' in lead.fields.tags",
            "lead.fields.tags.exists(t, t == 'vip') && lead.phones.all(p, p.size() > 5)",
            "has(lead.fields.car) && lead.fields.car in ['Lada', 'Volga']",
            "lead.title.contains('Call') ? true : false",
        ] {
            assert_eq!(passes(yes, rich.clone()), Passed::Yes, "{yes}");
        }
        assert_eq!(passes("lead.value.number > 30000.0", rich), Passed::No(None));
    }

    #[test]
    fn a_lead_without_the_field_does_not_go_through_and_says_which() {
        let bare = || json!({"value": null, "origin": {}, "fields": {}, "title": null, "phones": []});
        for (source, named) in [
            ("lead.fields.car == 'Lada'", Some("`car`")),
            ("lead.value.number > 10.0", None),
            ("lead.title.contains('x')", None),
            ("lead.phones[0] == '+7'", Some("shorter")),
        ] {
            let Passed::No(Some(why)) = passes(source, bare()) else { panic!("{source}") };
            assert!(named.is_none_or(|named| why.contains(named)), "{source}: {why}");
        }
    }

    #[test]
    fn what_can_work_for_no_lead_is_refused_when_it_is_entered() {
        for (source, word) in [
            ("1 + 1", "true or false"),
            ("lead.nam == 'x'", "no `nam`"),
            ("laed.name == 'x'", "no `laed`"),
            ("lead.name ==", ""),
            ("lead.name.shout()", ""),
            ("lead.fields.a.all(x, lead.fields.a.all(y, x + y >= 0))", "inside one another"),
            ("lead.fields.a.filter(x, x > 0).exists(y, y > 1)", "inside one another"),
            ("lead.fields.a.map(x, x + x).size() > 0", "`map`"),
            ("lead.fields.a.map(x, x > 1, x + x).size() > 0", "`map`"),
        ] {
            let problem = check_filter(source).unwrap_err();
            assert!(problem.contains(word), "{source}: {problem}");
        }
        for deep in [format!("{}true{}", "(".repeat(2_000), ")".repeat(2_000)), format!("{}true", "!".repeat(4_000)), "[".repeat(4_000)] {
            assert!(Filter::new(&deep).is_err() || passes_at_all(&deep));
        }
    }

    fn passes_at_all(source: &str) -> bool {
        Filter::new(source).unwrap().passes(&lead(json!({}))).is_ok()
    }

    #[test]
    fn a_lead_that_is_too_large_for_a_filter_is_not_tried() {
        let walks = Filter::new("lead.fields.a.all(x, lead.comment.contains('x'))").unwrap();
        let of = |entries: usize, bytes: usize| lead(json!({"comment": "y".repeat(bytes), "fields": {"a": vec![1; entries]}}));
        assert_eq!(walks.passes(&of(1_000, 100)), Ok(Passed::No(None)));
        assert!(walks.passes(&of(1_001, 1)).unwrap_err().contains("1001 entries"));
        assert!(walks.passes(&of(1_000, 1 << 20)).unwrap_err().contains("too large"));
        assert_eq!(Filter::new("lead.comment.contains('x')").unwrap().passes(&of(5_000, 1 << 20)), Ok(Passed::No(None)));
    }
}
