//! What serde says of a value that does not fit, in the words of whoever wrote the value.

use crate::policy::{FieldError, pointer_step};

/// The error of the field at `pointer` for serde's message. It never repeats the value: a secret in the wrong place must not
/// come back with the complaint.
pub fn field_error(mut pointer: String, message: &str) -> FieldError {
    // "… at line 1 column 7" says less than the pointer.
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let named = message.split('`').nth(1).unwrap_or_default();
    let step = format!("/{}", pointer_step(named));
    let (found, expected) = message.rsplit_once(", expected ").unwrap_or((message, "something else"));
    let must = || format!("must be {}", plain(expected));
    if message.starts_with("unknown field") {
        if !pointer.ends_with(&step) {
            pointer.push_str(&step);
        }
        return FieldError::new(pointer, "unknown_field", message);
    }
    if message.starts_with("missing field") {
        pointer.push_str(&step);
        return FieldError::new(pointer, "required", "must be there");
    }
    if let Some(found) = found.strip_prefix("invalid type: ") {
        return FieldError::new(pointer, "wrong_type", format!("{}, not {}", must(), kind(found)));
    }
    if found.starts_with("invalid value: ") || found.starts_with("invalid length ") || found.starts_with("unknown variant ") {
        return FieldError::new(pointer, "invalid_value", must());
    }
    FieldError::new(pointer, "invalid_value", message)
}

/// What stands there, by its kind: such as `string "…"`, ``integer `5` ``, `null`, `sequence`.
fn kind(found: &str) -> &'static str {
    match found.split(['"', '`', ',']).next().unwrap_or_default().trim_end() {
        "string" => "a text",
        "integer" => "a whole number",
        "floating point" => "a number with a fraction",
        "boolean" => "true or false",
        "sequence" => "a list",
        "map" => "an object",
        "null" | "unit value" | "Option value" => "null",
        _ => "this",
    }
}

/// What belongs there. Serde names the types of Rust.
fn plain(expected: &str) -> String {
    let text = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number from 0 on",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string" => "a text",
        "a sequence" => "a list",
        "a map" => "an object",
        object if object.starts_with("struct ") => "an object",
        other => other,
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_rust_reaches_a_client() {
        for (message, code, detail) in [
            ("invalid type: sequence, expected struct NewLead with 18 elements", "wrong_type", "must be an object, not a list"),
            ("invalid type: string \"a `secret`, expected u8\", expected struct NewLead", "wrong_type", "must be an object, not a text"),
            (
                "invalid type: floating point `1.5`, expected u32",
                "wrong_type",
                "must be a whole number from 0 to 4294967295, not a number with a fraction",
            ),
            (
                "invalid value: integer `-1`, expected u32 at line 1 column 9",
                "invalid_value",
                "must be a whole number from 0 to 4294967295",
            ),
            ("invalid type: null, expected a string", "wrong_type", "must be a text, not null"),
            ("unknown variant `x`, expected one of `a`, `b`", "invalid_value", "must be one of `a`, `b`"),
        ] {
            let error = field_error("/x".into(), message);
            assert_eq!((error.pointer.as_str(), error.code, error.detail.as_str()), ("/x", code, detail));
        }
        assert_eq!(field_error(String::new(), "missing field `a/b`").pointer, "/a~1b");
        assert_eq!(field_error("/value".into(), "unknown field `x`, expected `amount`").pointer, "/value/x");
    }
}
