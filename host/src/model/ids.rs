//! Ids: UUIDv7 inside, TypeID text outside (<https://github.com/jetify-com/typeid>, specification 0.3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::Timestamp;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id like `{prefix}_` followed by 26 characters of 0-9 and a-z")]
pub struct IdError {
    /// The prefix that was expected, such as `lead`.
    pub prefix: &'static str,
}

/// Crockford's base 32 in lower case, as TypeID uses it.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// 26 characters for 128 bits: the first one carries three bits, so it is at most `7`.
fn encode(value: u128) -> [u8; 26] {
    let mut text = [0; 26];
    for (i, slot) in text.iter_mut().enumerate() {
        *slot = ALPHABET[((value >> (5 * (25 - i))) & 31) as usize];
    }
    text
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != 26 || text.as_bytes()[0] > b'7' {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = ALPHABET.iter().position(|known| *known == byte)?;
        Some((value << 5) | digit as u128)
    })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The word before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id that sorts by `now`; the rest of its bits are random.
            pub fn new(now: Timestamp) -> Self {
                Self(new_uuid(now))
            }

            /// Wraps an id read from the database.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The 128 bits, for the database.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = encode(self.0.as_u128());
                f.write_str($prefix)?;
                f.write_str("_")?;
                f.write_str(std::str::from_utf8(&text).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(|value| Self(Uuid::from_u128(value)))
                    .ok_or(IdError { prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

fn new_uuid(now: Timestamp) -> Uuid {
    // UUIDv7 with the caller's clock; `Uuid::now_v7` would read the system's.
    let millis = now.as_millis().max(0) as u64;
    let nanos = (millis % 1_000) as u32 * 1_000_000;
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, millis / 1_000, nanos))
}

id!(
    /// A lead.
    LeadId, "lead");
id!(
    /// A batch: the deliveries of one send call.
    BatchId, "bat");
id!(
    /// A delivery; also the idempotency key that its plugin sends to the remote side.
    DeliveryId, "dlv");
id!(
    /// One attempt of a delivery.
    AttemptId, "att");
id!(
    /// A credential; its lane has the same id. Work on many rows waits in a second one ([`CredentialId::bulk_lane`]).
    CredentialId, "crd");

/// The bit of a UUIDv7 that makes a bulk lane of it: the highest of its version, which no made id has.
const BULK: u128 = 1 << 79;

impl CredentialId {
    /// The id of the lane where work on many rows waits behind live leads.
    #[must_use]
    pub const fn bulk_lane(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128() | BULK))
    }

    /// Whether this is the id of a bulk lane.
    pub const fn is_bulk_lane(self) -> bool {
        self.0.as_u128() & BULK != 0
    }

    /// The credential that a lane, of either kind, belongs to.
    #[must_use]
    pub const fn of_lane(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128() & !BULK))
    }
}
id!(
    /// A project.
    ProjectId, "prj");
id!(
    /// An API key.
    KeyId, "key");
id!(
    /// A task: work on many rows.
    TaskId, "tsk");
id!(
    /// A line of the audit log.
    AuditId, "aud");
id!(
    /// An erasure of a person.
    ErasureId, "ers");
id!(
    /// A request's correlation id. In `X-Request-Id` it is written as a plain UUID.
    RequestId, "req");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_and_its_bulk_lane_are_told_apart() {
        let id = CredentialId::new(Timestamp::from_millis(1_767_225_600_000));
        let bulk = id.bulk_lane();
        assert!(bulk != id && bulk.is_bulk_lane() && !id.is_bulk_lane());
        assert_eq!((bulk.of_lane(), id.of_lane(), bulk.bulk_lane()), (id, id, bulk));
    }

    #[test]
    fn matches_the_vectors_of_the_typeid_specification() {
        for (text, uuid) in [
            ("lead_00000000000000000000000000", "00000000-0000-0000-0000-000000000000"),
            ("lead_0000000000000000000000000g", "00000000-0000-0000-0000-000000000010"),
            ("lead_7zzzzzzzzzzzzzzzzzzzzzzzzz", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
            ("lead_01h455vb4pex5vsknk084sn02q", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ] {
            let id: LeadId = text.parse().unwrap();
            assert_eq!(id.uuid().to_string(), uuid);
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn refuses_other_kinds_and_broken_texts() {
        for text in [
            "bat_01h455vb4pex5vsknk084sn02q",
            "lead_81h455vb4pex5vsknk084sn02q",
            "lead_01H455VB4PEX5VSKNK084SN02Q",
            "lead_01h455vb4pex5vsknk084sn02",
            "lead_01h455vb4pex5vsknk084sn02l",
            "lead-01h455vb4pex5vsknk084sn02q",
            "",
        ] {
            assert!(text.parse::<LeadId>().is_err(), "{text}");
        }
    }

    #[test]
    fn new_ids_sort_by_time() {
        let earlier = LeadId::new(Timestamp::from_millis(1_000));
        let later = LeadId::new(Timestamp::from_millis(1_001));
        assert!(earlier < later && earlier.to_string() < later.to_string());
    }
}
