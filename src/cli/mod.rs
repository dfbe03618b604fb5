//! The command line: one file per noun. It prints; it decides nothing.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 ok, 1 failed, 2 differences or letters found, 64 usage
//! or configuration.

mod alarm;
mod archive;
mod audit;
mod auth;
mod bench;
mod call;
mod certificates;
mod check;
mod client;
mod config;
mod demo;
mod dlq;
mod doctor;
mod event;
mod explain;
mod failure;
mod fleet;
mod geofence;
mod incident;
mod kb;
mod ledger;
mod log;
mod logging;
mod notification;
mod offer;
mod output;
mod payment;
mod privacy;
mod queue;
mod reload;
mod replay;
mod report;
mod roles;
mod rule;
mod run;
mod setting;
mod shell;
mod site;
mod snapshot;
mod topology;
mod tracking;
mod vendor;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Loaded, Sources};
use crate::error::ErrorCode;
use crate::ops::private;
use crate::tls;
use failure::Failure;

/// Dispatches roadside help to broken-down trucks.
#[derive(Debug, Parser)]
#[command(
    name = "roadcall",
    version,
    about,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Cli {
    /// Run these roles until SIGTERM or Ctrl-C; `all` is every role of the site, `broker` only the nats-server, `gateway` the door over HTTP.
    #[arg(long, value_delimiter = ',', value_name = "ROLE")]
    role: Vec<String>,
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where the configuration and the broker are.
#[derive(Debug, Clone, Default, Args)]
struct Connection {
    /// Takes the place of /etc/roadcall/roadcall.toml, with conf.d, site.toml and role.d beside it; further ones override.
    #[arg(long, global = true, value_name = "PATH")]
    config: Vec<PathBuf>,
    /// The site; `config` with `--sites-root` takes several, separated by commas.
    #[arg(long, global = true, value_name = "ID")]
    site: Option<String>,
    /// The broker, `nats://host:port`.
    #[arg(long, global = true, value_name = "URL")]
    nats: Option<String>,
    /// A credentials file.
    #[arg(long, global = true, value_name = "PATH")]
    creds: Option<String>,
    /// As whom to connect where the broker knows identities: `operator`, or `reader`, who changes nothing.
    #[arg(long, global = true, value_name = "NAME")]
    identity: Option<String>,
    /// Where databases and the embedded broker live.
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<String>,
    /// Who acts: `driver:<id>`, `vendor:<id>`, `dispatcher:<id>`, `admin:<id>`, `operator:<name>`, with `;company=<id>`.
    #[arg(long = "as", global = true, value_name = "ACTOR")]
    acting: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// The roles whose files in `role.d` count.
    #[arg(skip)]
    roles: Vec<String>,
}

impl Connection {
    /// What the flags say of the configuration.
    fn flags(&self) -> Vec<(String, String)> {
        let flag =
            |key: &str, value: &Option<String>| value.clone().map(|value| (key.to_owned(), value));
        let flags = [
            flag("site.id", &self.site),
            flag("bus.url", &self.nats),
            flag("bus.creds", &self.creds),
            flag("bus.identity", &self.identity),
            flag("site.state_dir", &self.state_dir),
        ];
        flags.into_iter().flatten().collect()
    }

    fn load(&self) -> Result<Loaded, Failure> {
        let sources = Sources {
            files: self.config.clone(),
            roles: self.roles.clone(),
            flags: self.flags(),
            ..Sources::default()
        };
        Loaded::load(&sources).map_err(Failure::Config)
    }

    fn config(&self) -> Result<Config, Failure> {
        self.load().map(|loaded| loaded.config)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive incidents from breakdown to a closed file on a broker of its own, and show them as they happen.
    Demo(demo::Demo),
    /// Whether roles could start here: configuration, broker, topology, databases, disk. Exit 2 if only the topology differs.
    Check(config::OfRoles),
    /// What is wrong with the site and what to do about it, the worst first: broker, queues, letters, replays, links, files. Changes nothing; exit 2 with findings.
    Doctor,
    /// Measure this machine: Roadcall against the broker alone and a loop written by hand.
    Bench(bench::Bench),
    /// Show or check the configuration; bring a fleet's to its sites.
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Compare the broker's streams and queues with what the site needs, or bring them there (changes data).
    #[command(subcommand)]
    Topology(topology::TopologyVerb),
    /// Send any command: `roadcall call offer.accept '{"offerId":"…"}'` (may change data).
    Call(call::Call),
    /// Look at events and their catalogue.
    #[command(subcommand)]
    Event(event::EventVerb),
    /// Print the OpenAPI 3.1 document of the door over HTTP.
    Openapi,
    /// Create, look at and move incidents.
    #[command(subcommand)]
    Incident(incident::IncidentVerb),
    /// Register and look at vendors.
    #[command(subcommand)]
    Vendor(vendor::VendorVerb),
    /// Look at and answer offers.
    #[command(subcommand)]
    Offer(offer::OfferVerb),
    /// Look at what was told to whom.
    #[command(subcommand)]
    Notification(notification::NotificationVerb),
    /// Look at tracking sessions and feed positions.
    #[command(subcommand)]
    Tracking(tracking::TrackingVerb),
    /// Look at and change the platform's own configuration, version by version.
    #[command(subcommand)]
    Setting(setting::SettingVerb),
    /// Look at and change the areas that reports count by.
    #[command(subcommand)]
    Geofence(geofence::GeofenceVerb),
    /// Make the first admin, the identities of those who connect, certificates; change the key of the broker's store.
    #[command(subcommand)]
    Auth(auth::AuthVerb),
    /// Export what there is of a person, or erase him.
    #[command(subcommand)]
    Privacy(privacy::PrivacyVerb),
    /// Look at payments, decide about them, settle and refund them.
    #[command(subcommand)]
    Payment(payment::PaymentVerb),
    /// Find, upload and remove knowledge documents.
    #[command(subcommand)]
    Kb(kb::KbVerb),
    /// Let depots in, look at them, remove them.
    #[command(subcommand)]
    Site(site::SiteVerb),
    /// Look at queues, or give one to another database.
    #[command(subcommand)]
    Queue(queue::QueueVerb),
    /// Put roles' databases into the broker's object store, and bring them back from there.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotVerb),
    /// Look at dead letters, send them back to their queue, or discard them.
    #[command(subcommand)]
    Dlq(dlq::DlqVerb),
    /// Look at the archive as a whole, export and import it.
    #[command(subcommand)]
    Archive(archive::ArchiveVerb),
    /// What became of every archived event, queue by queue; exit 2 if of one nobody knows.
    Audit(audit::Audit),
    /// Look at the rules and try patterns.
    #[command(subcommand)]
    Rule(rule::RuleVerb),
    /// Bring archived events to a queue again.
    #[command(subcommand)]
    Replay(replay::ReplayVerb),
    /// Empty a role's projection and feed it from the archive again (changes data).
    Rebuild(report::Rebuild),
    /// What happened, in numbers.
    #[command(subcommand)]
    Report(report::ReportVerb),
    /// Search the event log.
    #[command(subcommand)]
    Log(log::LogVerb),
    /// Look at the alarms that are raised, or acknowledge them.
    #[command(subcommand)]
    Alarm(alarm::AlarmVerb),
    /// Check or print the ledger of operators' actions and changes.
    #[command(subcommand)]
    Ledger(ledger::LedgerVerb),
    /// Print a shell's completions for this program.
    Completions(shell::Completions),
    /// Print the manual page, or write those of all commands.
    Man(shell::Man),
    /// What an error code means and what to do about it; or an event's whole story, from its cause to its outcomes.
    Explain(explain::Explain),
}

impl Command {
    /// Whether it makes files in a state directory or in a broker's store.
    fn keeps_state(&self) -> bool {
        matches!(
            self,
            Self::Demo(_)
                | Self::Check(_)
                | Self::Bench(_)
                | Self::Auth(_)
                | Self::Snapshot(_)
                | Self::Privacy(_)
        )
    }
}

/// Parses the arguments, does what they say, and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let only_help =
                error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            if error.use_stderr() && !only_help {
                let text = error.render().to_string();
                let text = text.strip_prefix("error: ").unwrap_or(&text);
                eprint!("error[{}]: {text}", ErrorCode::Usage);
                return ExitCode::from(ErrorCode::Usage.page().exit);
            }
            // A closed pipe is the reader's choice.
            let _ = error.print();
            return ExitCode::from(if only_help { 64 } else { 0 });
        }
    };
    let json = cli.connection.json;
    tls::settle();
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => {
            failure.print(json);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let connection = cli.connection;
    if !cli.role.is_empty() {
        if cli.command.is_some() {
            return Err(Failure::usage(
                "--role runs roles and takes no command",
                "leave one of the two out",
            ));
        }
        return run::run(&connection, &cli.role);
    }
    let Some(command) = cli.command else {
        return Err(Failure::usage(
            "nothing to do",
            "give --role or a command; see roadcall --help",
        ));
    };
    if command.keeps_state() {
        private::own_only();
    }
    let runtime = run::runtime()?;
    runtime.block_on(async {
        match command {
            Command::Bench(bench) => bench.run(&connection).await,
            Command::Demo(demo) => demo.run(&connection).await,
            Command::Check(of) => check::check(&connection, &of).await,
            Command::Doctor => doctor::doctor(&connection).await,
            Command::Config(verb) => config::config(&connection, &verb).await,
            Command::Completions(of) => shell::completions(&of),
            Command::Man(to) => shell::man(&to),
            Command::Openapi => {
                output::print_json(&crate::gateway::document())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Topology(verb) => topology::topology(&connection, verb).await,
            Command::Call(call) => call::call(&connection, call).await,
            Command::Event(verb) => event::event(&connection, verb).await,
            Command::Incident(verb) => incident::incident(&connection, verb).await,
            Command::Vendor(verb) => vendor::vendor(&connection, verb).await,
            Command::Offer(verb) => offer::offer(&connection, verb).await,
            Command::Notification(verb) => notification::notification(&connection, verb).await,
            Command::Tracking(verb) => tracking::tracking(&connection, verb).await,
            Command::Setting(verb) => setting::setting(&connection, verb).await,
            Command::Geofence(verb) => geofence::geofence(&connection, verb).await,
            Command::Auth(verb) => auth::auth(&connection, verb).await,
            Command::Privacy(verb) => privacy::privacy(&connection, verb).await,
            Command::Payment(verb) => payment::payment(&connection, verb).await,
            Command::Kb(verb) => kb::kb(&connection, verb).await,
            Command::Site(verb) => site::site(&connection, verb).await,
            Command::Queue(verb) => queue::queue(&connection, &verb).await,
            Command::Snapshot(verb) => snapshot::snapshot(&connection, verb).await,
            Command::Dlq(verb) => dlq::dlq(&connection, verb).await,
            Command::Archive(verb) => archive::archive(&connection, verb).await,
            Command::Audit(audit) => audit.run(&connection).await,
            Command::Rule(verb) => rule::rule(&connection, verb).await,
            Command::Replay(verb) => replay::replay(&connection, verb).await,
            Command::Rebuild(rebuild) => rebuild.run(&connection).await,
            Command::Report(verb) => report::report(&connection, verb).await,
            Command::Log(verb) => log::log(&connection, verb).await,
            Command::Alarm(verb) => alarm::alarm(&connection, verb).await,
            Command::Ledger(verb) => ledger::ledger(&connection, verb).await,
            Command::Explain(what) => explain::explain(&connection, &what).await,
        }
    })
}
