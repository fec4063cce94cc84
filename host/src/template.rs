//! The one template language (minijinja) and the one filter language (CEL), both bounded.
//!
//! Used for message texts, field mapping and routing filters. A template sees `lead`, `event`, `config`, `project`,
//! `entity` and `now`, and nothing of the host.

mod bounds;
mod filter;

use std::fmt::Write as _;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};

pub use filter::{Filter, MAX_FILTER_BYTES, Passed, check_filter};

/// Steps a template may take; a page of text with a loop over every field takes some hundreds.
const FUEL: u64 = 100_000;
/// Longest template, in bytes.
pub const MAX_SOURCE_BYTES: usize = 64 << 10;
/// Longest rendered text, in bytes.
pub const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// Bytes that all steps of a template may work through.
const MAX_WORK: f64 = 8_589_934_592.0;
/// Size of the data that a template is checked with before there is any.
const USUAL_DATA_BYTES: usize = 16 << 10;

/// How values are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Escape {
    None,
    Html,
    Json,
    Url,
    /// Telegram's MarkdownV2.
    MarkdownV2,
}

/// The characters that MarkdownV2 wants a backslash before
/// (<https://core.telegram.org/bots/api#markdownv2-style>).
const MARKDOWN_V2: &[char] = &['_', '*', '[', ']', '(', ')', '~', '`', '>', '#', '+', '-', '=', '|', '{', '}', '.', '!', '\\'];

fn environment(escape: Escape, fuel: u64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(fuel));
    environment.set_recursion_limit(50);
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_auto_escape_callback(move |_| match escape {
        Escape::None => AutoEscape::None,
        Escape::Html => AutoEscape::Html,
        Escape::Json => AutoEscape::Json,
        Escape::Url => AutoEscape::Custom("url".into()),
        Escape::MarkdownV2 => AutoEscape::Custom("markdown-v2".into()),
    });
    environment.set_formatter(|out, state, value| match state.auto_escape() {
        // Nothing is written for what is not there, in every escape: `None` in a chat helps nobody.
        AutoEscape::None | AutoEscape::Html | AutoEscape::Custom(_) if value.is_undefined() || value.is_none() => Ok(()),
        AutoEscape::Custom(name) if name == "url" && !value.is_safe() => {
            let text = value.to_string();
            let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC);
            write!(out, "{encoded}").map_err(minijinja::Error::from)
        }
        AutoEscape::Custom(name) if name == "markdown-v2" && !value.is_safe() => {
            for c in value.to_string().chars() {
                if MARKDOWN_V2.contains(&c) {
                    out.write_char('\\').map_err(minijinja::Error::from)?;
                }
                out.write_char(c).map_err(minijinja::Error::from)?;
            }
            Ok(())
        }
        AutoEscape::Custom(_) => write!(out, "{value}").map_err(minijinja::Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment
}

fn explain(error: &minijinja::Error) -> String {
    let mut text = match error.line() {
        Some(line) => format!("line {line}: {error}"),
        None => error.to_string(),
    };
    if error.kind() == minijinja::ErrorKind::OutOfFuel {
        text.push_str(" (a template may take 100,000 steps, fewer when its values are large)");
    }
    text
}

/// A writer that stops a template which writes too much.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(std::io::Error::other(format!("the rendered text is longer than {MAX_OUTPUT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Data for a template.
pub fn data(data: &impl serde::Serialize) -> Value {
    Value::from(Serde(data))
}

/// Bytes of the data as JSON.
fn size(data: &Value) -> Result<usize, String> {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, data).map_err(|e| e.to_string())?;
    Ok(count.0)
}

/// How many steps may be taken over values of at most `largest` bytes: a bound on time as well as on memory.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and at most FUEL")]
fn steps(largest: f64) -> u64 {
    FUEL.min((MAX_WORK / largest.max(1.0)) as u64)
}

/// Renders `source` over `data`. The error names the template's line, for whoever wrote it.
pub fn render(source: &str, data: &Value, escape: Escape) -> Result<String, String> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(format!("the template is longer than {MAX_SOURCE_BYTES} bytes"));
    }
    let fuel = steps(bounds::largest(source, size(data)?)?);
    let environment = environment(escape, fuel);
    let template = environment.template_from_str(source).map_err(|e| explain(&e))?;
    let mut out = Bounded(Vec::with_capacity(source.len() * 2));
    template.render_captured_to(data.clone(), &mut out).map(drop).map_err(|e| match std::error::Error::source(&e) {
        Some(inner) if inner.is::<std::io::Error>() => inner.to_string(),
        _ => explain(&e),
    })?;
    String::from_utf8(out.0).map_err(|e| e.to_string())
}

/// Whether `source` is a template that can be rendered over some data.
pub fn check(source: &str) -> Result<(), String> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(format!("the template is longer than {MAX_SOURCE_BYTES} bytes"));
    }
    bounds::largest(source, USUAL_DATA_BYTES)?;
    environment(Escape::None, FUEL).template_from_str(source).map(drop).map_err(|e| explain(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render_json(source: &str, data: serde_json::Value, escape: Escape) -> Result<String, String> {
        render(source, &Value::from(Serde(data)), escape)
    }

    #[test]
    fn what_no_template_can_use_is_found_when_it_is_entered() {
        for good in [
            "{{ lead.name }}",
            "{{ lead.fields.car|upper }}",
            "{{ lead.value.number * 2 }}",
            "{{ lead.nosuch.thing }}",
            "",
            "{{ event.fields.x }}",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, word) in [
            ("a\n{{ lead.name|shout }}", "line 2: the filter `shout` is not available"),
            ("{% if lead.name is shouted %}{% endif %}", "the test `shouted` is not available"),
            ("{{ shout(lead.name) }}", "no function `shout`"),
            ("{{ lead.name", "line 1"),
            ("{% include 'x' %}", "other statements are not available"),
        ] {
            let problem = check(bad).unwrap_err();
            assert!(problem.contains(word), "{bad}: {problem}");
        }
    }

    #[test]
    fn escapes_for_each_place() {
        let data = json!({"name": "<b>&\"_1.5"});
        for (escape, text) in [
            (Escape::None, "<b>&\"_1.5"),
            (Escape::Html, "&lt;b&gt;&amp;&quot;_1.5"),
            (Escape::Json, r#""<b>&\"_1.5""#),
            (Escape::Url, "%3Cb%3E%26%22%5F1%2E5"),
            (Escape::MarkdownV2, "<b\\>&\"\\_1\\.5"),
        ] {
            assert_eq!(render_json("{{ name }}", data.clone(), escape).unwrap(), text, "{escape:?}");
        }
    }

    #[test]
    fn what_is_missing_is_empty() {
        assert_eq!(
            render_json("[{{ lead.value.amount }}{{ lead.comment }}]", json!({"lead": {"comment": null}}), Escape::Html).unwrap(),
            "[]"
        );
    }

    #[test]
    fn stops_endless_and_huge_templates_and_names_the_line() {
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(render_json(endless, json!({}), Escape::None).unwrap_err().contains("steps"));
        let error = render_json("fine\n{{ broken", json!({}), Escape::None).unwrap_err();
        assert!(error.contains("line 2"), "{error}");
        let huge = json!({"text": "x".repeat(MAX_OUTPUT_BYTES / 2 + 1)});
        assert!(render_json("{{ text }}{{ text }}", huge, Escape::None).unwrap_err().contains("longer"));
    }

    #[test]
    fn a_template_cannot_eat_memory() {
        for hostile in [
            "{{ 'x' * 999999999 }}",
            "{{ [1] * 999999999 }}",
            "{% set a = 'xxxxxxxxxxxxxxxx' * 4096 %}{% set b = a * 4096 %}{{ b * 4096 }}",
            "{{ range(99999999) | list | length }}",
            "{{ 'x' | center(999999999) }}",
            "{{ '%999999999d' | format(1) }}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{% macro m(a) %}{{ m(a ~ a) }}{% endmacro %}{{ m('xxxxxxxxxxxxxxxx') }}",
            "{% set a %}{% for i in range(9999) %}{{ 'x' * 100000 }}{% endfor %}{% endset %}{{ a | length }}",
            "{% for i in range(40) %}{% set a = (a or 'xxxxxxxxxxxxxxxx') ~ a %}{% endfor %}",
            "{% for i in range(9999) recursive %}{{ loop([i, i]) }}{% endfor %}",
            "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}",
            "{{ ('x' * 1000000) | list | join('y' * 1000000) }}",
            "{{ 'x' | indent(99999999) }}{{ {'a': [1]} | tojson(indent=99999999) }}",
            "{{ [1] | batch(99999999, 'x') | list }}",
            "{{ 'x' | map('map', 'map', 'list') | list }}",
            "{% filter upper %}{% for i in range(9999) %}{{ 'x' * 100000 }}{% endfor %}{% endfilter %}",
            "{% set f = range %}{{ f(99999999) | list | string | length }}",
            "{% set ns = namespace(a='xxxxxxxxxxxxxxxx') %}{% for i in range(40) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a | length }}",
        ] {
            let before = std::time::Instant::now();
            let rendered = render_json(hostile, json!({}), Escape::None);
            println!("{:?} {hostile}", before.elapsed());
            assert!(before.elapsed() < std::time::Duration::from_secs(2), "{hostile}");
            assert!(rendered.is_err() || rendered.is_ok_and(|text| text.len() <= MAX_OUTPUT_BYTES), "{hostile}");
        }
    }

    /// Forty lines that double a text, or nest a list that is written out twice as long each time.
    #[test]
    fn doubling_again_and_again_is_refused() {
        for (start, line) in [
            ("'x'", "{% set a = a ~ a %}"),
            ("'x'", "{% set a = a + a %}"),
            ("['x']", "{% set a = [a, a] %}"),
            ("['x']", "{% set a = {'a': a, 'b': a} %}"),
            ("'x'", "{% set a = a | list | string %}"),
            ("'\"'", "{% set a = a | tojson %}"),
            ("'x'", "{% set a = a | replace('x', 'xx') %}"),
            ("'x'", "{% set a %}{{ a }}{{ a }}{% endset %}"),
            ("'x'", "{% with a = a ~ a %}"),
            ("['x']", "{% for a in [[a, a]] %}"),
        ] {
            let source = format!("{{% set a = {start} %}}{}{{{{ a == a }}}}{{{{ a | string | length }}}}", line.repeat(40));
            let closed = source
                + &"{% endwith %}".repeat(40 * usize::from(line.contains("with")))
                + &"{% endfor %}".repeat(40 * usize::from(line.contains("for")));
            let error = render_json(&closed, json!({}), Escape::None).unwrap_err();
            assert!(error.contains("grow past") || error.contains("too many loops"), "{line}: {error}");
            assert!(check(&closed).is_err(), "{line}");
        }
    }

    #[test]
    fn templates_of_everyday_use_pass_with_large_leads() {
        let data = json!({"lead": {"name": "Ivan", "title": null, "comment": "x".repeat(200_000), "value": {"amount": 10.5},
            "phones": [{"e164": "+7916"}], "fields": {"car": "Lada"}, "tags": ["a", "b"]}});
        for (source, text) in [
            ("{% set who = lead.title or lead.name %}{{ who ~ ' / ' ~ lead.phones[0].e164 }}", "Ivan / +7916"),
            ("{% for name, value in lead.fields|items %}{{ name }}: {{ value|upper }}{% endfor %}", "car: LADA"),
            (
                "{% macro row(n, v) %}{% if v %}<{{ n }}={{ v }}>{% endif %}{% endmacro %}{{ row('a', lead.name) }}{{ row('b', lead.title) }}",
                "<a=Ivan>",
            ),
            ("{{ lead.value.amount * 2 }} {{ lead.tags|join(', ') }} {{ lead.tags|length }}", "21.0 a, b 2"),
            ("{{ lead.comment|length }} {{ lead.phones|map(attribute='e164')|join }}", "200000 +7916"),
        ] {
            assert_eq!(render_json(source, data.clone(), Escape::None).unwrap(), text, "{source}");
        }
    }

    #[test]
    fn the_templates_of_our_own_mails_pass_with_large_leads() {
        let data = json!({"lead": {"name": "Ivan", "comment": "x".repeat(100_000), "fields": {"car": "Lada"}, "phones": [{"raw": "1"}]}});
        for source in [include_str!("../../plugins/email/src/default.html"), include_str!("../../plugins/email/src/default.txt")] {
            assert!(check(source).is_ok());
            assert!(render_json(source, data.clone(), Escape::Html).unwrap().contains("Lada"));
        }
    }
}
