//! `cargo xtask demo`: from nothing to leads that arrive at a webhook, a chat and a mailbox.
//! Speaks to the host only as any client does, through its HTTP interface. Start at [`run`].

mod api;
mod check;
mod host;
mod leads;
mod receivers;
mod table;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::paths::Paths;
use crate::plugins::{self, Profile};
use crate::process::interrupted;
use crate::toolchain;
use api::Api;
use host::Host;
use leads::Sent;
use receivers::Receivers;
use table::Table;

/// How often the deliveries are asked for.
const POLL: Duration = Duration::from_millis(200);
/// After this long without an end, `--once` fails: far longer than a delivery with all its retries takes here.
const PATIENCE: Duration = Duration::from_secs(180);

/// Settings of the demo.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// End after the deliveries: 0 if each lead arrived everywhere exactly once and complete, else 1
    #[arg(long)]
    once: bool,
    /// Folder for everything durable
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// Port of the host's HTTP interface
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// Runs the whole demo.
pub async fn run(paths: &Paths, options: Options) -> Result<()> {
    let started = Instant::now();
    // Before the long part, so that nobody waits for a build to hear this.
    host::check_port(options.port)?;
    let build = {
        let paths = paths.clone();
        tokio::task::spawn_blocking(move || plugins::build_all(&paths, &toolchain::ensure(&paths)?, Profile::Release))
    };
    let binary = build.await??;
    let data = std::path::absolute(&options.data)?;
    plugins::copy_changed(&paths.channels(), &data.join("channels"))?;
    let receivers = Receivers::start([0; 4]).await?;
    let mut host = Host::start(&binary, &data, options.port, &receivers).await?;
    let outcome = tokio::select! {
        outcome = show(paths, &options, &mut host, &receivers, started) => outcome,
        stopped = interrupted() => stopped.map(|()| println!("\nstopping")),
    };
    host.stop().await?;
    outcome
}

async fn show(paths: &Paths, options: &Options, host: &mut Host, receivers: &Receivers, started: Instant) -> Result<()> {
    let api = host.api()?;
    let project = api.ensure_project().await?;
    for credential in receivers.credentials() {
        api.ensure_credential(&project, &credential).await?;
    }
    println!("==> host on {} with project `demo` and three credentials, ready after {:.1} s", host.url(), started.elapsed().as_secs_f32());
    let sent = leads::send(&api, &paths.root.join("examples/leads.json")).await?;
    let ended = watch(&api, &sent, options.once).await?;
    if options.once {
        return check::verify(&sent, &ended, receivers);
    }
    print_next(host, receivers);
    let status = host.wait().await?;
    bail!("the host ended with {status}; its log: {}", crate::shown(host.log()));
}

/// Shows the deliveries until every one has ended; their last states, lead by lead.
async fn watch(api: &Api, sent: &[Sent], limited: bool) -> Result<Vec<Vec<api::Delivery>>> {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(POLL);
    let mut table = Table::new(sent);
    let mut state: Vec<Vec<_>> = sent.iter().map(|lead| lead.deliveries.clone()).collect();
    loop {
        ticks.tick().await;
        for delivery in state.iter_mut().flatten().filter(|delivery| !delivery.has_ended()) {
            *delivery = api.delivery(&delivery.id).await.context("ask for a delivery")?;
        }
        table.show(&state);
        if state.iter().flatten().all(api::Delivery::has_ended) {
            println!("==> {} deliveries ended after {:.1} s", state.iter().flatten().count(), started.elapsed().as_secs_f32());
            return Ok(state);
        }
        if limited && started.elapsed() > PATIENCE {
            bail!("deliveries have not ended after {} s", PATIENCE.as_secs());
        }
    }
}

fn print_next(host: &Host, receivers: &Receivers) {
    let key = crate::shown(&host.key_file());
    let channels = crate::shown(&host.data().join("channels"));
    let url = host.url();
    println!(
        "
Look around
  {url}/docs          every call, to try out (key: {key})
  {board}                what the receivers have got
  {log}            the host's log

Try next
  curl {url}/api/deliveries -H \"X-API-Key: $(cat {key})\"
  curl {url}/api/leads -H \"X-API-Key: $(cat {key})\" -H 'Content-Type: application/json' \\
    -d '{{\"project\":\"ext:demo\",\"name\":\"Ada Lovelace\",\"phone\":\"+44 20 7946 0958\"}}'
  curl {url}/api/channels -H \"X-API-Key: $(cat {key})\"
  Write a plugin by docs/plugins.md and copy its .wasm to {channels}/: it is in service within two seconds.

Serving until Ctrl-C",
        board = receivers.board_url(),
        log = crate::shown(host.log()),
    );
}

/// Runs the receivers alone, on this port and the next three.
pub async fn fakes(port: u16) -> Result<()> {
    let ports = [0, 1, 2, 3].map(|step| port.saturating_add(step));
    let receivers = Receivers::start(ports).await.with_context(|| format!("ports {port} to {}: choose others with --port", ports[3]))?;
    println!("webhook receiver  {}", receivers.sink.url("/leads"));
    println!("Bot API           {}", receivers.bot.base_url());
    println!("mailbox           smtp://{}", receivers.mail.addr());
    println!("pages             {}", receivers.board_url());
    println!("Running until Ctrl-C");
    interrupted().await
}
