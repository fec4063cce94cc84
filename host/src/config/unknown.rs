//! Variables that look like settings and are none: a setting with a slip in its name would be ignored in silence.

use super::{ConfigError, KEYS};

/// Variables that are no setting: where the settings file is, and what the developer commands set.
const OTHERS: [&str; 3] = ["LEADWIRE_CONFIG", "LEADWIRE_WASM_TOOLCHAIN", "LEADWIRE_PLUGIN_EXPORTS"];

/// Refuses a name that no setting has, and names the nearest one.
pub(super) fn check(environment: impl Iterator<Item = (String, String)>) -> Result<(), ConfigError> {
    let known: Vec<String> = KEYS.iter().map(|(key, ..)| format!("LEADWIRE_{}", key.to_uppercase())).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).chain(OTHERS).collect();
    for (name, value) in environment {
        if !name.starts_with("LEADWIRE_") || known.contains(&name.as_str()) || is_of_kubernetes(&name, &value) {
            continue;
        }
        let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(&name, known)).copied().unwrap_or_default();
        return Err(ConfigError {
            source_name: "environment".to_owned(),
            key: name,
            problem: format!("there is no such setting; did you mean {nearest}?"),
            allowed: known.join(", "),
        });
    }
    Ok(())
}

/// Kubernetes gives every container variables about every service; one that is called `leadwire` must not stop the host.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let rest = name.strip_prefix("LEADWIRE_").unwrap_or_default();
    rest.starts_with("SERVICE_") || rest.starts_with("PORT_") || (rest == "PORT" && value.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, value: &str) -> Result<(), String> {
        check([(name.to_owned(), value.to_owned())].into_iter()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_slip_in_a_name_is_refused_with_the_nearest_one() {
        for (name, nearest) in [
            ("LEADWIRE_LISTENN", "LEADWIRE_LISTEN"),
            ("LEADWIRE_DATADIR", "LEADWIRE_DATA_DIR"),
            ("LEADWIRE_MAX_CONECTIONS", "LEADWIRE_MAX_CONNECTIONS"),
            ("LEADWIRE_listen", "LEADWIRE_LISTEN"),
        ] {
            let error = checked(name, "secret").unwrap_err();
            assert!(error.contains(&format!("{name}: there is no such setting; did you mean {nearest}?")), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(checked("LEADWIRE_PORT", "8080").is_err());
    }

    #[test]
    fn settings_and_what_others_set_are_no_slip() {
        for (name, value) in [
            ("LEADWIRE_LISTEN", ""),
            ("LEADWIRE_CONFIG", ""),
            ("LEADWIRE_WASM_TOOLCHAIN", "rustup"),
            ("LEADWIRE_SERVICE_HOST", "10.0.0.1"),
            ("LEADWIRE_PORT", "tcp://10.0.0.1:80"),
            ("LEADWIRE_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("PATH", "/bin"),
        ] {
            assert_eq!(checked(name, value), Ok(()), "{name}");
        }
    }
}
