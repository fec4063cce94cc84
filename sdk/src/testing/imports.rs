//! The doubles themselves: one module per import, with the generated functions' signatures.

use super::world;

pub(crate) mod progress {
    use crate::Verdict;

    pub(crate) fn settle(item: &str, verdict: &Verdict) {
        super::world(|world| world.verdicts.push((item.into(), verdict.clone())));
    }

    pub(crate) fn checkpoint(item: &str, memo: &str) {
        assert!(memo.len() <= 4096, "a memo of {} bytes: at most 4096 are kept", memo.len());
        super::world(|world| world.memos.insert(item.into(), memo.into()));
    }
}

pub(crate) mod http {
    use crate::http::{Failure, Request, Response};

    pub(crate) fn send(request: &Request) -> Result<Response, Failure> {
        super::world(|world| {
            let answer = world.answers.pop_front();
            world.requests.push(request.clone());
            let unexpected = || panic!("the test has no answer for {:?} {}", request.method, request.url);
            answer.unwrap_or_else(unexpected).0
        })
    }

    pub(crate) fn send_all(requests: &[Request]) -> Vec<Result<Response, Failure>> {
        requests.iter().map(send).collect()
    }
}

pub(crate) mod secrets {
    use hmac::{Hmac, Mac as _};

    use crate::{
        Body,
        secrets::{Failure, Mac},
    };

    pub(crate) fn has(name: &str) -> bool {
        super::world(|world| world.secrets.contains_key(name))
    }

    pub(crate) fn sign(name: &str, mac: Mac, data: &Body) -> Result<Vec<u8>, Failure> {
        let key = super::world(|world| world.secrets.get(name).cloned()).ok_or(Failure::Unknown)?;
        let data = match data {
            Body::Empty => &[][..],
            Body::Text(text) => text.as_bytes(),
            Body::Bytes(bytes) => bytes,
        };
        macro_rules! digest {
            ($hash:ty) => {
                Hmac::<$hash>::new_from_slice(&key).expect("any length").chain_update(data).finalize().into_bytes().to_vec()
            };
        }
        Ok(match mac {
            Mac::HmacSha1 => digest!(sha1::Sha1),
            Mac::HmacSha256 => digest!(sha2::Sha256),
            Mac::HmacSha512 => digest!(sha2::Sha512),
            Mac::HmacMd5 => digest!(md5::Md5),
        })
    }

    pub(crate) fn matches(name: &str, candidate: &str) -> Result<bool, Failure> {
        super::world(|world| world.secrets.get(name).map(|secret| secret == candidate.as_bytes())).ok_or(Failure::Unknown)
    }
}

pub(crate) mod secrets_reveal {
    use crate::secrets::Failure;

    pub(crate) fn reveal(name: &str) -> Result<String, Failure> {
        super::world(|world| world.secrets.get(name).map(|secret| String::from_utf8_lossy(secret).into_owned())).ok_or(Failure::Unknown)
    }
}

pub(crate) mod kv {
    use crate::kv::{Entry, Failure};

    pub(crate) fn get(key: &str) -> Result<Option<Entry>, Failure> {
        super::world(|world| if world.kv_broken { Err(Failure::Unavailable) } else { Ok(world.kv.get(key).cloned()) })
    }

    pub(crate) fn set(key: &str, value: &[u8], _ttl_s: Option<u32>) -> Result<(), Failure> {
        if value.len() > 64 << 10 {
            return Err(Failure::TooLarge);
        }
        super::world(|world| {
            if world.kv_broken {
                return Err(Failure::Unavailable);
            }
            let version = world.kv.get(key).map_or(1, |entry| entry.version + 1);
            world.kv.insert(key.into(), Entry { value: value.to_vec(), version });
            Ok(())
        })
    }

    pub(crate) fn swap(key: &str, expected: Option<u64>, value: &[u8], ttl_s: Option<u32>) -> Result<bool, Failure> {
        if get(key)?.map(|entry| entry.version) != expected {
            return Ok(false);
        }
        set(key, value, ttl_s).map(|()| true)
    }

    pub(crate) fn delete(key: &str) -> Result<(), Failure> {
        super::world(|world| {
            if world.kv_broken {
                return Err(Failure::Unavailable);
            }
            world.kv.remove(key);
            Ok(())
        })
    }
}

pub(crate) mod mail {
    use crate::{
        Attr,
        mail::{Failure, Message, Sent},
    };

    pub(crate) fn send(message: &Message) -> Result<Sent, Failure> {
        let everyone = || [&message.to[..], &message.cc, &message.bcc].concat();
        let accepted = message.only.clone().unwrap_or_else(everyone);
        super::world(|world| {
            world.mails.push(message.clone());
            let taken = Sent { message_id: "<dlv_1@example.com>".into(), accepted, refused: Vec::new() };
            world.mail_answers.pop_front().unwrap_or(Ok(taken))
        })
    }

    pub(crate) fn probe(recipients: &[String]) -> Result<Vec<Attr>, Failure> {
        super::world(|world| {
            world.probes.push(recipients.to_vec());
            let answer = world.probe_answers.pop_front().unwrap_or_else(|| Ok(vec![("tls".into(), "TLSv1.3".into())]));
            Ok(answer?.into_iter().map(|(name, value)| Attr { name, value }).collect())
        })
    }
}

pub(crate) mod template {
    use minijinja::{AutoEscape, Environment};

    use crate::template::Escape;

    /// Characters that Telegram's MarkdownV2 wants escaped.
    const MARKDOWN: &str = "_*[]()~`>#+-=|{}.!\\";

    pub(crate) fn render(source: &str, data: &str, escape: Escape) -> Result<String, String> {
        let data: serde_json::Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
        let mut env = Environment::new();
        env.set_fuel(Some(1_000_000));
        env.set_auto_escape_callback(move |_| match escape {
            Escape::Html => AutoEscape::Html,
            Escape::Json => AutoEscape::Json,
            _ => AutoEscape::None,
        });
        if matches!(escape, Escape::Url | Escape::MarkdownV2) {
            env.set_formatter(move |out, _, value| {
                let text = if value.is_none() || value.is_undefined() { String::new() } else { value.to_string() };
                let escaped = match escape {
                    Escape::Url => form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20"),
                    _ => text.chars().flat_map(|c| MARKDOWN.contains(c).then_some('\\').into_iter().chain([c])).collect(),
                };
                out.write_str(&escaped).map_err(Into::into)
            });
        }
        env.render_str(source, minijinja::value::Serde(&data)).map_err(|error| format!("{error:#}"))
    }
}

pub(crate) mod log {
    use crate::{Attr, log::Level};

    pub(crate) fn write(level: Level, message: &str, attrs: &[Attr]) {
        let level = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        let attrs: String = attrs.iter().map(|attr| format!(" {}={}", attr.name, attr.value)).collect();
        super::world(|world| world.logs.push(format!("{level}: {message}{attrs}")));
    }
}

pub(crate) mod clock {
    pub(crate) fn now_ms() -> u64 {
        super::world(|world| world.now_ms)
    }
}

pub(crate) mod random {
    /// The same bytes in every run: a test that depends on chance is none.
    pub(crate) fn bytes(len: u32) -> Vec<u8> {
        super::world(|world| {
            (0..len)
                .map(|_| {
                    world.random = world.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    world.random.to_be_bytes()[0]
                })
                .collect()
        })
    }
}
