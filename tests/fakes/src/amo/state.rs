//! What the account holds, and how it counts requests.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use serde_json::{Value, json};

use super::Play;

/// How many requests pass.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Within any second; zero means no limit.
    pub per_second: u32,
    /// After so many that were too many, everything is blocked; zero means never.
    pub block_after: u32,
}

impl Limits {
    /// No limit at all.
    #[must_use]
    pub fn none() -> Self {
        Self { per_second: 0, block_after: 0 }
    }

    /// What the vendor says: seven a second, and a block for who goes on.
    #[must_use]
    pub fn usual() -> Self {
        Self { per_second: 7, block_after: 10 }
    }
}

#[derive(Debug)]
pub(super) struct Limiter {
    limits: Limits,
    times: VecDeque<u64>,
    pub(super) refused: u32,
    /// The request that was counted last was one too many.
    pub(super) over: bool,
}

impl Limiter {
    /// Counts a request; false when it is one too many for its second.
    pub(super) fn passes(&mut self, now: u64) -> bool {
        while self.times.front().is_some_and(|at| at + 1_000 <= now) {
            self.times.pop_front();
        }
        self.times.push_back(now);
        self.over = self.limits.per_second > 0 && self.times.len() > self.limits.per_second as usize;
        self.refused += u32::from(self.over);
        !self.over
    }

    pub(super) fn exhausted(&self) -> bool {
        self.limits.block_after > 0 && self.refused > self.limits.block_after
    }
}

/// Everything the account remembers.
#[derive(Debug)]
pub(super) struct State {
    pub(super) leads: BTreeMap<u64, Value>,
    pub(super) contacts: BTreeMap<u64, Value>,
    pub(super) companies: BTreeMap<u64, Value>,
    pub(super) notes: Vec<Value>,
    pub(super) tasks: Vec<Value>,
    pub(super) unsorted: Vec<Value>,
    /// By `leads`, `contacts` and `companies`.
    pub(super) fields: HashMap<String, Vec<Value>>,
    pub(super) plays: HashMap<String, VecDeque<Play>>,
    pub(super) limiter: Limiter,
    pub(super) revoked: HashSet<String>,
    pub(super) unpaid: bool,
    pub(super) blocked: bool,
    pub(super) moved_to: Option<String>,
    pub(super) filters: bool,
    pub(super) saves_the_sound: bool,
    pub(super) chokes_on: Option<usize>,
    pub(super) merges: bool,
    pub(super) rights: Option<Value>,
    /// The search knows entities up to this id; `None`: all.
    indexed_to: Option<u64>,
    last_id: u64,
}

/// The account's pipelines with their stages.
pub(super) const PIPELINES: [(u64, &str, [u64; 4]); 2] =
    [(3_100, "Продажи", [3_101, 3_102, 142, 143]), (3_200, "Опт", [3_201, 3_202, 142, 143])];
/// The account's users.
pub(super) const USERS: [(u64, &str); 2] = [(501, "Анна Кузнецова"), (502, "Bob")];
const TRACKING: [&str; 10] =
    ["UTM_SOURCE", "UTM_MEDIUM", "UTM_CAMPAIGN", "UTM_TERM", "UTM_CONTENT", "UTM_REFERRER", "REFERRER", "_YM_UID", "YCLID", "GCLID"];

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        let mut state = Self {
            leads: BTreeMap::new(),
            contacts: BTreeMap::new(),
            companies: BTreeMap::new(),
            notes: Vec::new(),
            tasks: Vec::new(),
            unsorted: Vec::new(),
            fields: HashMap::new(),
            plays: HashMap::new(),
            limiter: Limiter { limits, times: VecDeque::new(), refused: 0, over: false },
            revoked: HashSet::new(),
            unpaid: false,
            blocked: false,
            moved_to: None,
            filters: true,
            saves_the_sound: false,
            chokes_on: None,
            merges: false,
            rights: Some(
                json!({"is_admin": true, "is_active": true, "leads": {"add": "A"}, "contacts": {"add": "A"}, "companies": {"add": "A"}}),
            ),
            indexed_to: None,
            last_id: 9_000,
        };
        for code in TRACKING {
            state.add_field("leads", "tracking_data", Some(code), &[]);
        }
        for (kind, code) in [("multitext", "PHONE"), ("multitext", "EMAIL"), ("text", "POSITION")] {
            state.add_field("contacts", kind, Some(code), &[]);
        }
        state.add_field("companies", "multitext", Some("PHONE"), &[]);
        state
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn index(&mut self, on: bool) {
        self.indexed_to = (!on).then_some(self.last_id);
    }

    pub(super) fn is_indexed(&self, id: u64) -> bool {
        self.indexed_to.is_none_or(|last| id <= last)
    }

    pub(super) fn add_field(&mut self, entity: &str, kind: &str, code: Option<&str>, options: &[&str]) -> u64 {
        let id = self.next_id();
        let enums: Vec<Value> = options.iter().map(|value| json!({"id": self.next_id(), "value": value, "sort": 1})).collect();
        let field = json!({"id": id, "name": code.unwrap_or("Поле"), "type": kind, "code": code, "enums": enums});
        self.fields.entry(entity.to_owned()).or_default().push(field);
        id
    }

    pub(super) fn add_contact(&mut self, name: &str, phone: &str, more: &[(&str, &str)]) -> u64 {
        let id = self.next_id();
        let value =
            |code: &str, value: &str| json!({"field_code": code, "field_name": code, "values": [{"value": value, "enum_code": "WORK"}]});
        let mut fields = Vec::new();
        if !phone.is_empty() {
            fields.push(value("PHONE", phone));
        }
        fields.extend(more.iter().map(|(code, text)| value(code, text)));
        let contact = json!({"id": id, "name": name, "custom_fields_values": fields, "_embedded": {"tags": [], "companies": []}});
        self.contacts.insert(id, contact);
        id
    }

    /// The field that a written value names by id or by code.
    pub(super) fn field_of(&self, entity: &str, written: &Value) -> Option<&Value> {
        let same = |field: &&Value| match (&written["field_id"], &written["field_code"]) {
            (Value::Null, code) => !code.is_null() && field["code"] == *code,
            (id, _) => field["id"] == *id,
        };
        self.fields.get(entity)?.iter().find(same)
    }
}
