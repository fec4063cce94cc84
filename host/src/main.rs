//! The `leadwire` command: reads flags, runs the host, and the author's and operator's small tools.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use leadwire::clock::{Clock, SystemClock};
use leadwire::config::{Config, DEFAULTS, Flags};
use leadwire::metrics::StoreMetrics;
use leadwire::model::Scope;
use leadwire::plugin::package;
use leadwire::{keys, private, serve, telemetry};

// The system's allocator gives memory back late and contends between threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Brings sales leads to every CRM, inbox, chat and webhook.
#[derive(Parser)]
#[command(name = "leadwire", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take leads and deliver them.
    Serve(Flags),
    /// Print the commented default settings.
    Config,
    /// Make the database's tables, or bring them up to date, and stop. `serve` does it by itself; this is for a database user
    /// who may do so while the one who serves may not.
    Migrate(Flags),
    /// API keys, made directly in the database.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Plugin files.
    Channel {
        #[command(subcommand)]
        command: ChannelCommand,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key and print it; it is shown only now. With SQLite the host must not be running.
    Create {
        /// For people, to know it by.
        #[arg(long)]
        name: String,
        /// leads:write, leads:read, project:admin or platform:admin; may be given several times.
        #[arg(long = "scope", required = true, value_parser = parse_scope)]
        scopes: Vec<Scope>,
        #[command(flatten)]
        flags: Flags,
    },
}

#[allow(clippy::large_enum_variant, reason = "made once, at the start")]
#[derive(Subcommand)]
enum ChannelCommand {
    /// The plugin files in the channels folder, and what would be refused.
    List {
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// What a plugin file is and what it may do.
    Inspect {
        /// A `.wasm` file.
        file: PathBuf,
        /// Print the whole manifest as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a plugin file from a built core module and its plugin.toml.
    Pack {
        /// The plugin's manifest; the config schema it names is read from beside it.
        #[arg(long, value_name = "FILE")]
        manifest: PathBuf,
        /// Folder (then the name is CHANNEL-VERSION.wasm) or file to write.
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
        /// What `cargo build --target wasm32-unknown-unknown` made.
        module: PathBuf,
    },
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| "write leads:write, leads:read, project:admin or platform:admin".into())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Serve(flags) => run(&flags),
        Command::Config => print(DEFAULTS),
        Command::Migrate(flags) => migrate(&flags),
        Command::Key { command: KeyCommand::Create { name, scopes, flags } } => create_key(name, scopes, &flags),
        Command::Channel { command: ChannelCommand::List { flags } } => list_channels(&flags),
        Command::Channel { command: ChannelCommand::Inspect { file, json } } => inspect(&file, json),
        Command::Channel { command: ChannelCommand::Pack { manifest, out, module } } => pack(&manifest, &out, &module),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "leadwire: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    // A closed pipe, as in `leadwire config | head`, is not worth a word.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn load(flags: &Flags) -> anyhow::Result<Config> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    Config::check_names(std::env::vars_os().map(|(name, value)| (text(name), text(value))))?;
    Ok(Config::load(flags, &|name| std::env::var(name).ok())?)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

fn run(flags: &Flags) -> anyhow::Result<()> {
    let config = load(flags)?;
    telemetry::init(&config)?;
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        // Listened for from the first moment: a stop that comes while the host starts, or just after, is a stop too.
        let mut signals = StopSignals::listen()?;
        let host = tokio::select! {
            host = serve::start(config, Arc::new(SystemClock)) => host?,
            _ = signals.next() => {
                tracing::info!("stopped while starting");
                return Ok(());
            }
        };
        signals.next().await;
        tracing::info!("stopping: no new leads; calls in flight end first; a second signal ends them too");
        tokio::select! {
            () = host.stop() => Ok(()),
            code = signals.next() => {
                tracing::warn!("stopped at once: calls that were in flight are tried again after the next start");
                std::process::exit(code)
            }
        }
    });
    // A plugin that is being compiled is not waited for.
    runtime.shutdown_timeout(LAST_MOMENT);
    done
}

/// How long work on the runtime's threads may go on once everything is stopped.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// The signals that ask for a stop, taken over from the system's own handling.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn listen() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one: the exit code of a process that it ends, as shells write it.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => 143,
            _ = self.interrupt.recv() => 130,
        }
    }
}

fn migrate(flags: &Flags) -> anyhow::Result<()> {
    let config = load(flags)?;
    runtime()?.block_on(async {
        private::folder(&config.data_dir).with_context(|| format!("cannot make the data folder {}", config.data_dir.display()))?;
        serve::open_store(&config, &StoreMetrics::default()).await?.ping().await?;
        print("the database is up to date\n")
    })
}

fn create_key(name: String, scopes: Vec<Scope>, flags: &Flags) -> anyhow::Result<()> {
    let config = load(flags)?;
    runtime()?.block_on(async {
        private::folder(&config.data_dir).with_context(|| format!("cannot make the data folder {}", config.data_dir.display()))?;
        let store = serve::open_store(&config, &StoreMetrics::default())
            .await
            .context("the host may be running: then make the key with POST /api/keys")?;
        let text = keys::new_text()?;
        let key = keys::new_key(name, &text, scopes, SystemClock.now());
        keys::store_own(&*store, &config, key).await?;
        print(&format!("{}\n", text.expose()))
    })
}

fn list_channels(flags: &Flags) -> anyhow::Result<()> {
    let config = load(flags)?;
    let folder = &config.channels_dir;
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    names.sort();
    let mut out = String::new();
    for path in &names {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match read_file(path).and_then(|bytes| Ok(package::read(bytes)?)) {
            Ok(package) => out.push_str(&format!("{name}: {} {}\n", package.manifest.channel, package.manifest.version)),
            Err(error) => out.push_str(&format!("{name}: refused: {error:#}\n")),
        }
    }
    if names.is_empty() {
        out = format!("no plugin files in {}\n", folder.display());
    }
    print(&out)
}

/// Not of a pipe, which may never end.
fn read_file(path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    anyhow::ensure!(std::fs::metadata(path)?.is_file(), "not a file");
    Ok(std::fs::read(path)?)
}

fn inspect(file: &std::path::Path, json: bool) -> anyhow::Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let size = bytes.len();
    let package = package::read(bytes).with_context(|| file.display().to_string())?;
    if json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&package.manifest)?));
    }
    print(&leadwire::plugin::describe(&package, size))
}

fn pack(manifest: &std::path::Path, out: &std::path::Path, module: &std::path::Path) -> anyhow::Result<()> {
    let wasm = std::fs::read(module).with_context(|| format!("cannot read {}: build the plugin first", module.display()))?;
    let (manifest, packed) = package::pack(&wasm, manifest)?;
    let is_file = out.extension().is_some_and(|extension| extension == "wasm");
    let path = if is_file { out.to_path_buf() } else { out.join(package::file_name(&manifest)) };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // Written beside and moved: a host that watches the folder sees the whole file or none.
    let part = path.with_extension("wasm.part");
    std::fs::write(&part, &packed)
        .and_then(|()| std::fs::rename(&part, &path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    print(&format!("{} ({} bytes): {} {}\n", path.display(), packed.len(), manifest.channel, manifest.version))
}
