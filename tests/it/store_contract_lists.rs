//! What every `Store` must do when it is asked for lists: each combination of conditions gives exactly the rows that fit,
//! page by page, each once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use leadwire::model::*;
use leadwire::policy::search;
use leadwire::store::*;

use super::store_contract::*;

/// What the lists must find again.
struct World {
    projects: [ProjectId; 2],
    lanes: Vec<CredentialId>,
    leads: Vec<Lead>,
    deliveries: Vec<Delivery>,
    batches: Vec<Batch>,
}

const NAMES: [&str; 3] = ["Иван Петров", "Пётр Иванов", "Ada Lovelace"];
const PHONES: [&str; 3] = ["+79161234567", "+79161234568", "+442079460958"];

/// Leads that differ in everything a list is asked for, some sent again, some ended.
async fn world(store: &dyn Store) -> World {
    let (projects, lanes) = ([project_id(), project_id()], lanes(3));
    for n in 0..48_i64 {
        let of = |most: i64, step: i64| ((n / step) % most) as usize;
        let mut intake = intake(projects[of(2, 1)], &lanes[..of(4, 2)], at(n * 1_000));
        let lead = &mut intake.lead;
        lead.name = Some(NAMES[of(3, 1)].to_owned());
        lead.phones = vec![Phone { raw: PHONES[of(3, 3)].to_owned(), e164: Some(PHONES[of(3, 3)].to_owned()) }];
        lead.emails = vec![format!("User{}@example.com", of(4, 3))];
        lead.entity = [None, Some("landing"), Some("shop")][of(3, 5)].map(str::to_owned);
        lead.external_id = (n % 4 == 0).then(|| format!("form-{}", n % 8));
        (lead.comment, lead.title) = (None, Some("Заявка".to_owned()));
        for (delivery, channel) in intake.deliveries.iter_mut().zip(["webhook", "email", "webhook"]) {
            delivery.channel = channel.to_owned();
        }
        let again = (n % 5 == 0).then(|| (intake.lead.clone(), intake.lead.project));
        accept(store, intake).await;
        if let Some((lead, project)) = again {
            let mut second = super::store_contract::intake(project, &lanes[..2], at(n * 1_000 + 60_000));
            second.lead = lead;
            accept(store, second).await;
        }
    }
    searchable(store).await;
    let ends = [DeliveryStatus::Delivered, DeliveryStatus::Failed, DeliveryStatus::InDoubt, DeliveryStatus::Skipped];
    for (n, leased) in lease(store, &lanes[..2], at(200_000)).await.iter().enumerate() {
        if n % 5 < 4 {
            finish_one(store, leased.job, end(ends[n % 5]), at(200_001)).await.unwrap();
        }
    }
    let (mut leads, mut batches, mut deliveries) = (Vec::new(), Vec::new(), Vec::new());
    let every = ListQuery { limit: 200, ..ListQuery::default() };
    for record in store.leads(&every).await.unwrap().items {
        for batch in store.batches_of_lead(record.lead.id).await.unwrap() {
            deliveries.extend(store.deliveries_of_batch(batch.id).await.unwrap());
            batches.push(batch);
        }
        leads.push(record.lead);
    }
    assert_eq!(leads.len(), 48);
    searchable(store).await;
    World { projects, lanes, leads, deliveries, batches }
}

impl World {
    fn lead_fits(&self, lead: LeadId, query: &ListQuery) -> bool {
        let lead = self.leads.iter().find(|one| one.id == lead).unwrap();
        let found = search::of(lead);
        query.project.is_none_or(|project| project == lead.project)
            && query.entity.as_ref().is_none_or(|entity| lead.entity.as_ref() == Some(entity))
            && query.external_id.as_ref().is_none_or(|id| lead.external_id.as_ref() == Some(id))
            && query.contacts.iter().all(|group| group.iter().any(|key| found.contacts.contains(key)))
            && query.words.iter().all(|word| found.words.contains(word))
    }

    fn target_fits(delivery: &Delivery, query: &ListQuery) -> bool {
        query.channel.as_ref().is_none_or(|channel| delivery.channel == *channel)
            && query.credential.is_none_or(|credential| delivery.credential_id == credential)
    }

    fn in_time(created_at: Timestamp, query: &ListQuery) -> bool {
        query.created_after.is_none_or(|after| created_at >= after) && query.created_before.is_none_or(|before| created_at < before)
    }

    async fn check(&self, store: &dyn Store, query: &ListQuery) {
        let word = |status: serde_json::Value| query.status.as_ref().is_none_or(|asked| status == serde_json::json!(asked));
        let some_target = |one: &dyn Fn(&Delivery) -> bool| {
            (query.channel.is_none() && query.credential.is_none())
                || self.deliveries.iter().any(|delivery| one(delivery) && Self::target_fits(delivery, query))
        };
        let mut expected = BTreeSet::new();
        for lead in &self.leads {
            let status = lead_state(store, lead.id).await;
            let fits = self.lead_fits(lead.id, query) && Self::in_time(lead.created_at, query) && word(serde_json::json!(status));
            if fits && some_target(&|delivery| delivery.lead_id == lead.id) {
                expected.insert(lead.id.uuid());
            }
        }
        let got = pages(query, async |query| store.leads(query).await.unwrap(), |record: &LeadRecord| record.lead.id.uuid()).await;
        assert_eq!(got, expected, "leads {query:?}");
        let got = pages(query, async |query| store.lead_ids(query).await.unwrap(), |id: &LeadId| id.uuid()).await;
        assert_eq!(got, expected, "ids of leads {query:?}");

        let fits = |batch: &&Batch| {
            self.lead_fits(batch.lead_id, query)
                && Self::in_time(batch.created_at, query)
                && word(serde_json::json!(batch.status))
                && some_target(&|delivery| delivery.batch_id == batch.id)
        };
        let expected: BTreeSet<_> = self.batches.iter().filter(fits).map(|batch| batch.id.uuid()).collect();
        let got = pages(query, async |query| store.batches(query).await.unwrap(), |batch: &Batch| batch.id.uuid()).await;
        assert_eq!(got, expected, "batches {query:?}");

        let fits = |delivery: &&Delivery| {
            self.lead_fits(delivery.lead_id, query)
                && Self::in_time(delivery.created_at, query)
                && word(serde_json::json!(delivery.status))
                && Self::target_fits(delivery, query)
        };
        let expected: BTreeSet<_> = self.deliveries.iter().filter(fits).map(|delivery| delivery.id.uuid()).collect();
        let got = pages(query, async |query| store.deliveries(query).await.unwrap(), |delivery: &Delivery| delivery.id.uuid()).await;
        assert_eq!(got, expected, "deliveries {query:?}");
        let got = pages(query, async |query| store.delivery_ids(query).await.unwrap(), |id: &DeliveryId| id.uuid()).await;
        assert_eq!(got, expected, "ids of deliveries {query:?}");
    }
}

/// All pages; each row must come once.
async fn pages<T>(query: &ListQuery, ask: impl AsyncFn(&ListQuery) -> Found<T>, id: impl Fn(&T) -> uuid::Uuid) -> BTreeSet<uuid::Uuid> {
    let mut query = query.clone();
    let mut seen = BTreeSet::new();
    loop {
        let page = ask(&query).await;
        assert!(page.items.len() <= query.limit as usize);
        for item in &page.items {
            assert!(seen.insert(id(item)), "{} comes twice: {query:?}", id(item));
        }
        query.before = page.next;
        if page.next.is_none() {
            return seen;
        }
    }
}

async fn each_combination_of_conditions_finds_what_fits_and_nothing_else(backend: &dyn Backend) {
    let store = backend.open(10_000).await;
    let world = world(&*store).await;
    let statuses =
        [None, Some("completed"), Some("accepted"), Some("pending"), Some("failed"), Some("queued"), Some("sending"), Some("delivered")];
    for status in statuses {
        for bits in 0..1u32 << 8 {
            let has = |bit: u32| bits & (1 << bit) != 0;
            let phone = |n: usize| format!("p{}", PHONES[n].trim_start_matches('+'));
            let query = ListQuery {
                project: has(0).then_some(world.projects[0]),
                status: status.map(str::to_owned),
                channel: has(1).then(|| "webhook".to_owned()),
                credential: has(2).then_some(world.lanes[0]),
                entity: has(3).then(|| "landing".to_owned()),
                external_id: has(4).then(|| "form-4".to_owned()),
                contacts: if has(5) { vec![vec![phone(0), phone(2)], vec!["euser1@example.com".to_owned()]] } else { vec![] },
                words: if has(6) { search::asked_words("петр заявки") } else { vec![] },
                created_after: has(7).then(|| at(9_000)),
                created_before: has(7).then(|| at(70_000)),
                before: None,
                limit: 7,
            };
            // All at once rarely finds anything: of the combinations with many conditions every third is enough.
            if bits.count_ones() < 4 || (bits + status.map_or(0, |word| word.len() as u32)) % 3 == 0 {
                world.check(&*store, &query).await;
            }
        }
    }
}

async fn a_lead_is_found_by_each_of_its_contacts_also_when_it_is_sent_again(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let project = project_id();
    let mut first = intake(project, &lanes(1), at(0));
    first.lead.phones = vec![
        Phone { raw: "8 916 123-45-67".to_owned(), e164: Some("+79161234567".to_owned()) },
        Phone { raw: "доб. 12-34".to_owned(), e164: None },
    ];
    first.lead.emails = vec!["Ivan@example.com".to_owned()];
    let lead = first.lead.clone();
    accept(&*store, first).await;
    let mut second = intake(project, &lanes(1), at(5));
    second.lead = lead.clone();
    accept(&*store, second).await;
    let ask = async |query: ListQuery| {
        let query = ListQuery { project: Some(project), limit: 10, ..query };
        store.leads(&query).await.unwrap().items.iter().map(|record| record.lead.id).collect::<Vec<_>>()
    };
    for key in ["p79161234567", "p1234", "eivan@example.com"] {
        assert_eq!(ask(ListQuery { contacts: vec![vec![key.to_owned()]], ..ListQuery::default() }).await, [lead.id], "{key}");
    }
    assert!(ask(ListQuery { words: search::asked_words("заявку сайта"), ..ListQuery::default() }).await.is_empty(), "words come later");
    searchable(&*store).await;
    assert_eq!(ask(ListQuery { words: search::asked_words("заявку сайта"), ..ListQuery::default() }).await, [lead.id]);
    assert!(ask(ListQuery { words: search::asked_words("заявка отменена"), ..ListQuery::default() }).await.is_empty());
    assert!(!store.index_leads(100).await.unwrap(), "nothing is left to be made searchable");
}

/// Words come slice by slice, and what a crash left over is known at the next start.
async fn leads_become_searchable_by_words_in_order_whatever_dies_in_between(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let project = project_id();
    let mut ids = Vec::new();
    for n in 0..7 {
        let one = intake(project, &lanes(1), at(n));
        ids.push(one.lead.id);
        accept(&*store, one).await;
    }
    let found = async |store: &dyn Store| {
        let query = ListQuery { project: Some(project), words: search::asked_words("заявка"), limit: 10, ..ListQuery::default() };
        let mut found: Vec<_> = store.leads(&query).await.unwrap().items.iter().map(|record| record.lead.id).collect();
        found.reverse();
        found
    };
    assert!(store.index_leads(3).await.unwrap());
    assert_eq!(found(&*store).await, ids[..3]);
    drop(store); // killed
    let store = backend.open(100).await;
    // Two who do the same slice at once do it once.
    let (one, two) = tokio::join!(store.index_leads(3), store.index_leads(3));
    assert!(one.unwrap() | two.unwrap());
    while store.index_leads(3).await.unwrap() {}
    assert_eq!(found(&*store).await, ids);
    assert!(!store.index_leads(3).await.unwrap());
}

/// A condition that hardly any row fulfils: pages may be short, but they go on to the end.
async fn a_rare_row_is_found_behind_many_others(backend: &dyn Backend) {
    let store = backend.open(100_000).await;
    let (project, lanes) = (project_id(), lanes(1));
    let mut rare = intake(project, &lanes, at(0));
    rare.deliveries[0].settings = None;
    let rare_id = rare.lead.id;
    accept(&*store, rare).await;
    let leased = lease_one(&*store, lanes[0], at(0)).await;
    finish_one(&*store, leased.job, end(DeliveryStatus::Delivered), at(1)).await.unwrap();
    for group in 0..50 {
        let group = (0..60).map(|n| accept(&*store, intake(project, &lanes, at(1_000 + group * 60 + n))));
        futures_util::future::join_all(group).await;
    }
    let query = ListQuery { project: Some(project), status: Some("completed".to_owned()), limit: 5, ..ListQuery::default() };
    let first = store.leads(&query).await.unwrap();
    assert!(first.items.is_empty() && first.next.is_some(), "3,000 rows are not looked at for one page");
    let all = pages(&query, async |query| store.leads(query).await.unwrap(), |record: &LeadRecord| record.lead.id.uuid()).await;
    assert_eq!(all, BTreeSet::from([rare_id.uuid()]));
}

macro_rules! contract {
    ($($behaviour:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour(&super::Sqlite::new()).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour(&super::Postgres::new().await).await;
                }
            )+
        }
    };
}

contract!(
    each_combination_of_conditions_finds_what_fits_and_nothing_else,
    a_lead_is_found_by_each_of_its_contacts_also_when_it_is_sent_again,
    leads_become_searchable_by_words_in_order_whatever_dies_in_between,
    a_rare_row_is_found_behind_many_others,
);
