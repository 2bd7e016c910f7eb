//! `loadtest`: see README.md.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget};

use loadtest::origin::Origin;
use loadtest::run::Stage;
use loadtest::scenario::{Numbers, Scenario};
use loadtest::suite::{Field, Findings, Item, Rounds, bar_style, usual};
use loadtest::systems::{Bench, System};
use loadtest::{beside, cores, pump, report, table, verdict};

/// Load tests of Millstream beside its peers and bare pumps.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    numbers: Numbers,
    #[command(flatten)]
    options: Options,
}

#[derive(Clone, Debug, Args)]
struct Options {
    /// Systems to run it through; repeatable or with commas [default: all that are installed]
    #[arg(long, global = true, value_delimiter = ',')]
    system: Vec<System>,
    /// Rounds of each scenario
    #[arg(long, global = true)]
    rounds: Option<usize>,
    /// The relay's binary [default: beside this program]
    #[arg(long, global = true, value_name = "PATH")]
    millstream: Option<PathBuf>,
    /// Also the relay as `loadtest/pgo` builds it, beside the usual one
    #[arg(long, global = true)]
    pgo: bool,
    /// More flags for the relay, e.g. --millstream-flags '--heartbeat off'
    #[arg(long, global = true, value_name = "FLAGS", allow_hyphen_values = true)]
    millstream_flags: Option<String>,
    /// Directories with peers' programs, looked into before PATH
    #[arg(long, global = true, value_name = "DIR")]
    tools: Vec<PathBuf>,
    /// Cores of the system under test, e.g. 1 or 2-3 [default: the last]
    #[arg(long, global = true, value_name = "CORES")]
    sut_cores: Option<String>,
    /// Cores of origin and generator [default: the others, four at most]
    #[arg(long, global = true, value_name = "CORES")]
    load_cores: Option<String>,
    /// Write every run as JSON
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    /// Systems at once with the first one given, each with half of the usual load, on one core:
    /// the ratio of their CPU to half a percent
    Beside {
        /// Of a scenario whose load does not end by itself, or is counted (`steady`, `churn-new`)
        #[command(subcommand)]
        scenario: Scenario,
    },
    /// The usual suite, about sixteen minutes
    All {
        /// In less than two minutes, each scenario once
        #[arg(long)]
        quick: bool,
    },
    /// The origin alone, until Ctrl-C; GET /probe tells which streams' readers left, and when
    Origin {
        /// Where
        #[arg(long, default_value = "127.0.0.1:9100")]
        listen: SocketAddr,
    },
    /// A bare pump, until it is ended
    Pump {
        /// The kernel interface
        #[arg(long, value_enum)]
        kind: pump::Kind,
        /// Where
        #[arg(long)]
        listen: SocketAddr,
        /// Where to
        #[arg(long)]
        upstream: SocketAddr,
        /// How many, each with a listener of its own on the same port
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// Make a page of findings kept as JSON: FILE's name with .html, or --html
    Report {
        /// The file
        file: PathBuf,
        /// Where the page goes
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Print the table of findings kept as JSON
    Table {
        /// The file
        file: PathBuf,
    },
}

impl Options {
    /// As they were given, but for who takes part, how often, and where it goes.
    fn arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = Vec::new();
        let mut put = |name: &str, value: &OsStr| all.extend([name.into(), value.into()]);
        self.millstream.iter().for_each(|path| put("--millstream", path.as_os_str()));
        self.tools.iter().for_each(|path| put("--tools", path.as_os_str()));
        let texts = [
            ("--millstream-flags", &self.millstream_flags),
            ("--sut-cores", &self.sut_cores),
            ("--load-cores", &self.load_cores),
        ];
        for (name, text) in texts {
            text.iter().for_each(|text| put(name, text.as_ref()));
        }
        all.extend(self.pgo.then(|| "--pgo".into()));
        all
    }
}

fn bench(options: &Options) -> Result<Bench> {
    let given = |text: &Option<String>| {
        text.as_deref().map(cores::parse).transpose().map_err(anyhow::Error::msg)
    };
    let this = std::env::current_exe().context("this program's place")?;
    let beside = this.with_file_name("millstream");
    let flags = options.millstream_flags.as_deref().unwrap_or_default();
    Ok(Bench {
        millstream: options.millstream.clone().unwrap_or(beside),
        // target/pgo beside target/release
        millstream_pgo: this.with_file_name("../pgo/millstream"),
        millstream_flags: flags.split_whitespace().map(str::to_owned).collect(),
        tools: options.tools.clone(),
        // Asked for before this thread is kept off the system's cores.
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        sut_cores: given(&options.sut_cores)?,
        load_cores: given(&options.load_cores)?,
    })
}

fn measure(options: &Options, items: &[Item]) -> Result<()> {
    let bench = bench(options)?;
    let all = <System as clap::ValueEnum>::value_variants().iter().copied();
    let own = items.iter().all(|item| !item.spec.relay_flags.is_empty());
    // pump-keep drops an answer whose client has closed its side, so it is no floor for most loads.
    let all = all.filter(|&system| system != System::PumpKeep && (!own || system.is_millstream()));
    let all = all.filter(|&system| system != System::MillstreamPgo || options.pgo);
    let systems = if options.system.is_empty() { all.collect() } else { options.system.clone() };
    let limit = raise_descriptors();
    // This thread looks at counters and draws bars: not on the system's core.
    cores::pin_all(&bench.place(None).load);
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends the program.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let stage = Stage { bench: &bench, interrupted, pki: OnceCell::new(), bar };
    let findings = Findings::gather(&stage, &systems, items);
    print!("{}", table::text(&findings.machine, &findings.results));
    for failure in &findings.failures {
        println!("! {failure}");
    }
    if limit < 12_000 {
        println!("! only {limit} descriptors: raise `ulimit -n` for 5000 streams");
    }
    options.json.as_ref().map_or(Ok(()), |path| findings.save(path))?;
    let failed = verdict::failed(&findings.results).len();
    if failed > 0 {
        // No error of this program's own: the table says what is wrong.
        eprintln!("{failed} checks failed");
        std::process::exit(1);
    }
    Ok(())
}

/// Runs the other systems beside the first.
fn measure_beside(scenario: Scenario, numbers: &Numbers, options: &Options) -> Result<()> {
    let usual = [System::PumpUring, System::Millstream, System::Nginx, System::Haproxy];
    let systems = if options.system.is_empty() { &usual[..] } else { &options.system };
    let [first, others @ ..] = systems else { bail!("--system names nobody") };
    if others.is_empty() {
        bail!("--system {first} is beside nobody: name another, as in --system pump-uring,{first}");
    }
    let mut numbers = numbers.clone();
    if scenario == Scenario::Steady {
        numbers.streams.get_or_insert(500);
    }
    numbers.seconds.get_or_insert(4.0);
    let mut arguments = vec![OsString::from(scenario.name())];
    arguments.extend(numbers.arguments().into_iter().map(OsString::from));
    arguments.extend(options.arguments());
    let bar = ProgressBar::new(0).with_style(bar_style());
    let rounds = options.rounds.unwrap_or(6);
    let pairs = beside::run(&arguments, (*first, others), rounds, &bar)?;
    print!("{}", beside::text(*first, &scenario.spec(&numbers).label, &pairs));
    Ok(())
}

/// As many descriptors as this user may have; children inherit it.
fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match &cli.command {
        Command::Scenario(scenario) => {
            let spec = scenario.spec(&cli.numbers);
            let field = match scenario {
                _ if !cli.options.system.is_empty() => Field::Given,
                Scenario::Shaped => Field::Shaped,
                _ => Field::Plain,
            };
            let rounds = Rounds::all(cli.options.rounds.unwrap_or(1));
            measure(&cli.options, &[Item { spec, rounds, field }])
        }
        Command::Beside { scenario } => measure_beside(*scenario, &cli.numbers, &cli.options),
        Command::All { quick } => measure(&cli.options, &usual(*quick, cli.options.rounds)),
        Command::Origin { listen } => {
            raise_descriptors();
            let mut origin = Origin::start(*listen, &bench(&cli.options)?.place(None).load, None)?;
            println!("origin on {}", origin.address);
            origin.wait();
            Ok(())
        }
        Command::Pump { kind, listen, upstream, threads } => {
            raise_descriptors();
            pump::run(*kind, *listen, *upstream, *threads)
        }
        Command::Report { file, html } => {
            let page = report::html(&Findings::load(file)?);
            let place = html.clone().unwrap_or_else(|| file.with_extension("html"));
            std::fs::write(&place, page)
                .with_context(|| format!("cannot write {}", place.display()))?;
            println!("{}", place.display());
            Ok(())
        }
        Command::Table { file } => {
            let findings = Findings::load(file)?;
            print!("{}", table::text(&findings.machine, &findings.results));
            Ok(())
        }
    }
}
