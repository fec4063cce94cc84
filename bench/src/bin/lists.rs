//! How long lists and searches take over a million leads, and along which index each goes: `cargo xtask bench lists`.
//!
//! Works on the store itself, in this process: what HTTP adds is measured elsewhere, and a million requests would only
//! measure the seeding. Prints a table with the plan of each question below it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use leadwire::model::{
    BatchId, BatchOptions, CredentialId, DeliveryId, DeliveryStatus, Lead, LeadId, LeadStatus, Origin, Phone, ProjectId, Timestamp,
};
use leadwire::policy::search;
use leadwire::store::sqlite::{SqliteStore, StoreOptions};
use leadwire::store::{Finish, Intake, IntakeExtras, LaneQuota, ListQuery, NewDelivery, Next, Store};
use leadwire_bench::percentile::Samples;

/// Leads that are stored together.
const TOGETHER: u64 = 256;
/// Questions of one kind.
const RUNS: u64 = 200;
const START_MS: i64 = 1_767_225_600_000;
/// One lead a second or so: a million are some twelve days.
const STEP_MS: i64 = 1_000;
const PROJECTS: usize = 4;
const CREDENTIALS: usize = 5;

const NAMES: [&str; 8] = ["Иван", "Пётр", "Анна", "Мария", "Сергей", "Ольга", "Ada", "Grace"];
const FAMILIES: [&str; 8] = ["Петров", "Иванова", "Сидоров", "Кузнецова", "Смирнов", "Попова", "Lovelace", "Hopper"];
const WORDS: [&str; 12] =
    ["заявка", "кредит", "машина", "квартира", "доставка", "звонок", "консультация", "тур", "ремонт", "окна", "скидка", "вопрос"];

#[derive(Parser)]
#[command(name = "leadwire-bench-lists", about = "Measures lists and searches over many leads; see bench/README.md")]
struct Args {
    /// How many leads to store first
    #[arg(long, default_value_t = 1_000_000)]
    leads: u64,
    /// The database is made in a folder in here, and removed afterwards
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"))]
    scratch: PathBuf,
    /// Keep the database as this file, and use it the next time
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    /// Fail when a p95 is above so many milliseconds
    #[arg(long, default_value_t = 50.0)]
    most_ms: f64,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start the runtime");
    match runtime.and_then(|runtime| runtime.block_on(run(&Args::parse()))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ids that are the same in every run, so that a kept database is understood.
struct World {
    projects: Vec<ProjectId>,
    credentials: Vec<Vec<CredentialId>>,
}

fn fixed(n: usize) -> uuid::Uuid {
    uuid::Uuid::from_u128((START_MS as u128) << 80 | 0x7000_8000_0000_0000_0000 | n as u128)
}

impl World {
    fn new() -> Self {
        let credential = |project: usize, n: usize| CredentialId::from_uuid(fixed(100 + project * 10 + n));
        Self {
            projects: (0..PROJECTS).map(|n| ProjectId::from_uuid(fixed(n))).collect(),
            credentials: (0..PROJECTS).map(|project| (0..CREDENTIALS).map(|n| credential(project, n)).collect()).collect(),
        }
    }

    /// Most leads belong to one project.
    fn project_of(n: u64) -> usize {
        match mix(n) % 100 {
            0..85 => 0,
            85..95 => 1,
            95..99 => 2,
            _ => 3,
        }
    }

    fn intake(&self, n: u64) -> Intake {
        let now = Timestamp::from_millis(START_MS + n as i64 * STEP_MS);
        let project = Self::project_of(n);
        let pick = |salt: u64, most: usize| (mix(n ^ (salt << 40)) % most as u64) as usize;
        let channels = ["webhook", "telegram", "email", "amocrm", "webhook"];
        let first = pick(1, 3);
        let deliveries = [first, first + 1 + pick(2, 2)].map(|slot| NewDelivery {
            id: DeliveryId::new(now),
            credential_id: self.credentials[project][slot],
            channel: channels[slot].to_owned(),
            due_at: now,
            settings: None,
        });
        Intake {
            lead: lead(n, self.projects[project], now),
            status: LeadStatus::Accepted,
            dedup: None,
            batch: BatchId::new(now),
            options: BatchOptions::default(),
            deliveries: deliveries.into(),
            correlation: String::new(),
            idempotency: None,
            extras: IntakeExtras::default(),
        }
    }
}

/// A number that looks like chance and is not.
fn mix(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn phone(n: u64) -> String {
    format!("+79{:09}", mix(n ^ 7) % 1_000_000_000)
}

fn email(n: u64) -> String {
    format!("user{}@example.com", mix(n ^ 11) % 10_000_000)
}

fn lead(n: u64, project: ProjectId, now: Timestamp) -> Lead {
    let pick = |salt: u64, most: usize| (mix(n ^ (salt << 32)) % most as u64) as usize;
    let comment: Vec<&str> = (0..6).map(|word| WORDS[pick(20 + word, WORDS.len())]).collect();
    Lead {
        id: LeadId::new(now),
        project,
        entity: Some(format!("landing-{}", pick(3, 20))),
        external_id: Some(format!("form-{n}")),
        title: Some(format!("Заявка {}", WORDS[pick(4, WORDS.len())])),
        name: Some(format!("{} {}", NAMES[pick(5, NAMES.len())], FAMILIES[pick(6, FAMILIES.len())])),
        company: None,
        phones: vec![Phone { raw: phone(n), e164: Some(phone(n)) }],
        emails: vec![email(n)],
        comment: Some(format!("{} номер{}", comment.join(" "), mix(n ^ 13) % 100_000)),
        value: None,
        origin: Origin::default(),
        fields: serde_json::Map::new(),
        created_at: now,
    }
}

async fn run(args: &Args) -> Result<bool> {
    std::fs::create_dir_all(&args.scratch).context("make the scratch folder")?;
    let folder = tempfile::tempdir_in(&args.scratch)?;
    let file = args.database.clone().unwrap_or_else(|| folder.path().join("leadwire.db"));
    let options = StoreOptions { max_backlog: u64::MAX, ..StoreOptions::default() };
    let store = Arc::new(SqliteStore::open(&file, options).await?);
    let world = Arc::new(World::new());
    let has = store.lead_ids(&ListQuery { limit: 1, ..ListQuery::default() }).await?.items.len();
    if has == 0 {
        seed(&store, &world, args.leads).await?;
    }
    let done = ask(&store, &world, args).await;
    store.close().await;
    done
}

async fn seed(store: &Arc<SqliteStore>, world: &Arc<World>, leads: u64) -> Result<()> {
    let begun = Instant::now();
    let mut stored = 0;
    while stored < leads {
        let mut together = tokio::task::JoinSet::new();
        for n in stored..(stored + TOGETHER).min(leads) {
            let (store, intake) = (store.clone(), world.intake(n));
            together.spawn(async move { store.accept(intake).await });
        }
        while let Some(done) = together.join_next().await {
            done??;
        }
        stored = (stored + TOGETHER).min(leads);
        // The last ones stay queued, as they would be.
        if stored < leads.saturating_sub(2_000) {
            end(store, world, stored).await?;
        }
        if stored % (TOGETHER * 200) == 0 {
            eprintln!("{stored} leads after {:.0} s", begun.elapsed().as_secs_f64());
        }
    }
    println!("{leads} leads stored in {:.0} s", begun.elapsed().as_secs_f64());
    while store.index_leads(1_000).await? {}
    println!("searchable after {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Ends what is queued: of a hundred, three fail and one is in doubt.
async fn end(store: &SqliteStore, world: &World, stored: u64) -> Result<()> {
    let now = Timestamp::from_millis(START_MS + stored as i64 * STEP_MS);
    let lanes: Vec<_> = world.credentials.iter().flatten().map(|lane| LaneQuota { lane: *lane, limit: 1_000 }).collect();
    let leased = store.lease(&lanes, now, now.plus(std::time::Duration::from_secs(60))).await?;
    let finish = |(n, leased): (usize, &leadwire::store::Leased)| {
        let status = match mix(stored ^ n as u64) % 100 {
            0..3 => DeliveryStatus::Failed,
            3 => DeliveryStatus::InDoubt,
            _ => DeliveryStatus::Delivered,
        };
        Finish { job: leased.job, attempts: Vec::new(), last: None, next: Next::End { status, refs: Vec::new(), url: None }, now }
    };
    store.finish(leased.iter().enumerate().map(finish).collect()).await?;
    Ok(())
}

/// A kind of question; the number makes each a different one.
type Question = (&'static str, fn(&World, u64) -> ListQuery);

fn at(n: u64) -> Option<Timestamp> {
    Some(Timestamp::from_millis(START_MS + n as i64 * STEP_MS))
}

fn base(world: &World) -> ListQuery {
    ListQuery { project: Some(world.projects[0]), limit: 50, ..ListQuery::default() }
}

const QUESTIONS: &[Question] = &[
    ("everything", |_, _| ListQuery { limit: 50, ..ListQuery::default() }),
    ("project", |world, n| ListQuery { project: Some(world.projects[n as usize % PROJECTS]), ..base(world) }),
    ("status failed", |world, _| ListQuery { status: Some("failed".into()), ..base(world) }),
    ("status completed", |world, _| ListQuery { status: Some("completed".into()), ..base(world) }),
    ("status partial", |world, _| ListQuery { status: Some("partial".into()), ..base(world) }),
    ("status queued", |world, _| ListQuery { status: Some("queued".into()), ..base(world) }),
    ("status delivered", |world, _| ListQuery { status: Some("delivered".into()), ..base(world) }),
    ("entity", |world, n| ListQuery { entity: Some(format!("landing-{}", n % 20)), ..base(world) }),
    ("channel", |world, n| ListQuery { channel: Some(["webhook", "telegram", "email", "amocrm"][n as usize % 4].into()), ..base(world) }),
    ("channel nobody has", |world, _| ListQuery { channel: Some("uontravel".into()), ..base(world) }),
    ("credential", |world, n| ListQuery { credential: Some(world.credentials[0][n as usize % 4]), ..base(world) }),
    ("credential, failed", |world, n| ListQuery {
        credential: Some(world.credentials[0][n as usize % 4]),
        status: Some("failed".into()),
        ..base(world)
    }),
    ("time, one hour long ago", |world, n| ListQuery { created_after: at(n * 100), created_before: at(n * 100 + 3_600), ..base(world) }),
    ("phone", |world, n| ListQuery { contacts: vec![search::phone_keys(&phone(mix(n) % 1_000_000), None)], ..base(world) }),
    ("phone, any project", |_, n| ListQuery {
        contacts: vec![search::phone_keys(&phone(mix(n) % 1_000_000), None)],
        limit: 50,
        ..ListQuery::default()
    }),
    ("e-mail", |world, n| ListQuery { contacts: vec![vec![search::email_key(&email(mix(n) % 1_000_000))]], ..base(world) }),
    ("external id", |world, n| ListQuery { external_id: Some(format!("form-{}", mix(n) % 1_000_000)), ..base(world) }),
    ("text, common words", |world, n| words(world, &format!("{} {}", NAMES[n as usize % 8], FAMILIES[n as usize / 8 % 8]))),
    ("text, a word of every lead", |world, _| words(world, "заявка")),
    ("text, a rare word", |world, n| words(world, &format!("номер{}", mix(n) % 100_000))),
    ("text, common and rare", |world, n| words(world, &format!("заявка иван номер{}", mix(n) % 100_000))),
    ("text nobody wrote", |world, _| words(world, "заявка небывальщина")),
    ("text in a small project", |world, _| ListQuery { project: Some(world.projects[3]), ..words(world, "иван петров") }),
    ("text, failed", |world, _| ListQuery { status: Some("failed".into()), ..words(world, "иван") }),
    ("text, entity, channel, time", |world, n| ListQuery {
        entity: Some(format!("landing-{}", n % 20)),
        channel: Some("email".into()),
        created_after: at(n * 1_000),
        created_before: at(n * 1_000 + 86_400),
        ..words(world, "иван")
    }),
    ("entity, failed", |world, n| ListQuery { entity: Some(format!("landing-{}", n % 20)), status: Some("failed".into()), ..base(world) }),
];

fn words(world: &World, text: &str) -> ListQuery {
    ListQuery { words: search::asked_words(text), ..base(world) }
}

async fn ask(store: &SqliteStore, world: &World, args: &Args) -> Result<bool> {
    let mut plans = String::new();
    let mut slow = Vec::new();
    println!("{:<34}{:<12}{:>8}{:>10}{:>10}{:>10}", "question", "list", "rows", "p50 ms", "p95 ms", "max ms");
    for (name, question) in QUESTIONS {
        for list in ["leads", "batches", "deliveries"] {
            let (mut times, mut rows) = (Vec::new(), 0);
            for n in 0..RUNS {
                let mut query = question(world, n);
                if query.status.as_deref().is_some_and(|status| !has_status(list, status)) {
                    break;
                }
                // Every second one goes on from the first page.
                let mut next = None;
                for _ in 0..=(n % 2) {
                    query.before = next;
                    let begun = Instant::now();
                    let (found, following) = match list {
                        "leads" => store.leads(&query).await.map(|found| (found.items.len(), found.next))?,
                        "batches" => store.batches(&query).await.map(|found| (found.items.len(), found.next))?,
                        _ => store.deliveries(&query).await.map(|found| (found.items.len(), found.next))?,
                    };
                    times.push(u64::try_from(begun.elapsed().as_micros())?);
                    (rows, next) = (rows.max(found), following);
                    if next.is_none() {
                        break;
                    }
                }
            }
            if times.is_empty() {
                continue;
            }
            let samples = Samples::new(times);
            let p95 = samples.ms(0.95);
            println!("{name:<34}{list:<12}{rows:>8}{:>10.2}{p95:>10.2}{:>10.2}", samples.ms(0.5), samples.ms(1.0));
            if p95 > args.most_ms {
                slow.push(format!("{name} ({list}): {p95:.1} ms"));
            }
        }
        plans.push_str(&format!("\n{name}\n"));
        for (list, steps) in store.plans(&question(world, 0)).await? {
            plans.push_str(&format!("  {list}: {}\n", steps.join("; ")));
        }
    }
    println!("{plans}");
    for line in &slow {
        println!("too slow: {line}");
    }
    Ok(slow.is_empty())
}

fn has_status(list: &str, status: &str) -> bool {
    match list {
        "leads" => ["accepted", "processing", "completed", "partial", "failed", "unrouted"].contains(&status),
        "batches" => ["pending", "completed", "partial", "failed", "cancelled"].contains(&status),
        _ => ["queued", "sending", "delivered", "skipped", "failed", "in_doubt", "cancelled"].contains(&status),
    }
}
