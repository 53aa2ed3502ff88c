//! The `tollgate` command.

use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use tollgate::BROKEN_PIPE;
use tollgate::api::client::Client;
use tollgate::api::filter::Filter;
use tollgate::api::nouns;
use tollgate::api::profile::{self, LoginCommand, Place};
use tollgate::api::session::{Failure, Session, View};
use tollgate::api::{Format, complain_of_failure, complain_of_usage};
use tollgate::challenge::ChallengeOptions;
use tollgate::cli::{ApiOptions, Cli, Command, Said};
use tollgate::command::maintenance::{AuditCommand, FsckOptions};
use tollgate::command::setup::SetupOptions;
use tollgate::command::{dev, maintenance, serve, setup, simulate};
use tollgate_core::secret::Secret;
use tollgate_core::{Error, Kind};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const URL_USUAL: &str = "http://127.0.0.1:8080/v1";

/// Exit codes that are not those of an API's answer.
const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let matches = nouns::added_to(Cli::command()).get_matches();
    // What is of the table of nouns has no place in the types of the others, and stands beside them.
    let noun = nouns::find(&matches);
    let cli = match noun {
        Some(_) => api_options(&matches).map(|api| Cli { command: Command::Whoami, api }),
        None => Cli::from_arg_matches(&matches),
    };
    let mut cli = cli.unwrap_or_else(|error| error.exit());
    let is_said = |name: &str| {
        let mut matches = &matches;
        loop {
            if matches.value_source(name) == Some(ValueSource::CommandLine) {
                return true;
            }
            match matches.subcommand() {
                Some((_, deeper)) => matches = deeper,
                None => return false,
            }
        }
    };
    cli.api.said =
        Said { url: is_said("url"), profile: is_said("profile"), admin_key_file: is_said("admin_key_file") };
    if cli.api.api_key.is_some() {
        complain(
            "A secret on the command line is seen by every user of the machine and kept in the shell's history. Use \
             TOLLGATE_ADMIN_KEY, --admin-key-file FILE, or --admin-key-file - for stdin.",
        );
        return ExitCode::from(WRONG_USAGE);
    }
    start_log(&cli.command);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => ExitCode::from(runtime.block_on(async {
            match noun {
                Some((noun, verb, said)) => by_table(noun, verb, said, &cli.api).await,
                None => run(cli).await,
            }
        })),
        Err(error) => {
            complain(&format!("The program cannot start: {error}."));
            ExitCode::from(FAILED)
        }
    }
}

/// The options of every command, where the command is one of the table's.
fn api_options(matches: &ArgMatches) -> Result<ApiOptions, clap::Error> {
    // They are global: the deepest has them all.
    let mut matches = matches;
    while let Some((_, deeper)) = matches.subcommand() {
        matches = deeper;
    }
    ApiOptions::from_arg_matches(matches)
}

async fn by_table(noun: &str, verb: &str, said: &ArgMatches, options: &ApiOptions) -> u8 {
    match session(options, false) {
        Ok(session) => ended(session.noun(noun, verb, said).await.map(|()| true), options),
        Err(message) => {
            complain_of_usage(options.output, &message);
            WRONG_USAGE
        }
    }
}

async fn run(cli: Cli) -> u8 {
    let output = cli.api.output;
    if cli.api.dry_run && cli.command.is_done_at_once() {
        complain_of_usage(output, "--dry-run: this command cannot be tried. Nothing was done.");
        return WRONG_USAGE;
    }
    match cli.command {
        Command::Serve(options) => done(serve::serve(*options).await, output),
        Command::Setup(options) => set_up(options, &cli.api).await,
        Command::Dev(mut options) => {
            options.openai_key = from_environment("OPENAI_API_KEY");
            done(dev::dev(options).await, output)
        }
        Command::Simulate(options) => done(simulate::simulate(options).await, output),
        Command::Fsck(FsckOptions { place }) if place.is_given() => match maintenance::fsck(&place).await {
            Ok(true) => 0,
            Ok(false) => FAILED,
            Err(error) => done(Err(error), output),
        },
        Command::Migrate(mut options) => {
            options.check |= cli.api.dry_run;
            match maintenance::migrate(&options).await {
                Ok(is_there) => u8::from(!is_there),
                Err(error) => done(Err(error), output),
            }
        }
        Command::Version => done(maintenance::version(), output),
        Command::Challenge(options) => challenge(*options, &cli.api).await,
        Command::Backup(options) => done(maintenance::backup(&options).await, output),
        Command::Restore(options) => done(maintenance::restore(&options), output),
        Command::Copy(options) => done(maintenance::copy(&options).await, output),
        Command::Recover(options) => done(maintenance::recover(&options).await, output),
        Command::Audit(AuditCommand::Verify(options)) => match maintenance::audit_verify(&options).await {
            Ok(true) => 0,
            Ok(false) => FAILED,
            Err(error) => done(Err(error), output),
        },
        Command::Audit(AuditCommand::Checkpoint(options)) => {
            done(maintenance::audit_checkpoint(&options).await, output)
        }
        Command::Password(command) => done(maintenance::password(&command).await, output),
        Command::Openapi => done(maintenance::openapi(), output),
        Command::Operations { pages: true } => done(maintenance::pages(), output),
        Command::Operations { pages: false } => done(maintenance::operations(), output),
        Command::Operator(command) => done(maintenance::operator(&command).await, output),
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut nouns::added_to(Cli::command()), "tollgate", &mut text);
            tollgate::api::print(String::from_utf8_lossy(&text).trim_end());
            0
        }
        Command::Login(command) => ended(login(&command, &cli.api).await.map(|()| true), &cli.api),
        Command::Logout => {
            let done = profile::logout(cli.api.profile.as_deref());
            ended(
                done.map(|name| say(&cli.api, &format!("Profile {name} has no key any more.")))
                    .map(|()| true),
                &cli.api,
            )
        }
        Command::Profile(command) => {
            let shown = profile::profile(&command).and_then(|shown| match shown {
                Some(list) => profile::show(cli.api.output, &list),
                None => Ok(()),
            });
            ended(shown.map(|()| true), &cli.api)
        }
        command => over_api(command, &cli.api).await,
    }
}

async fn set_up(options: SetupOptions, api: &ApiOptions) -> u8 {
    // What it makes is shown once: how is clear before.
    let view = match view(api) {
        Ok(view) => view,
        Err(message) => {
            complain_of_usage(api.output, &message);
            return WRONG_USAGE;
        }
    };
    if let Err(failure) = view.check_shows("/setup_url", "") {
        return ended(Err(failure), api);
    }
    match setup::setup(options).await {
        Ok(made) => ended(setup::show(&made, &view, api.quiet).map(|()| true), api),
        Err(error) => done(Err(error), api.output),
    }
}

async fn login(command: &LoginCommand, options: &ApiOptions) -> Result<(), Failure> {
    let known = Place::usual().map(|place| place.config()).transpose()?.unwrap_or_default();
    // A profile that is there already keeps its server unless another is named.
    // What a profile that a flag names is, the environment does not say.
    let said = options.url.as_ref().filter(|_| options.said.url || !options.said.profile);
    let url = match (said, options.profile.as_deref()) {
        (Some(url), _) => url.clone(),
        (None, Some(name)) => known
            .meant(Some(name))
            .ok()
            .flatten()
            .map_or_else(|| URL_USUAL.to_owned(), |(_, profile)| profile.url),
        (None, None) => URL_USUAL.to_owned(),
    };
    let (name, who) = profile::login(command, options.profile.as_deref(), &url).await?;
    profile::show(options.output, &who)?;
    say(options, &format!("Profile {name} is in use."));
    Ok(())
}

#[expect(clippy::print_stderr, reason = "what is not the result goes there")]
fn say(options: &ApiOptions, text: &str) {
    if !options.quiet {
        eprintln!("{text}");
    }
}

async fn over_api(command: Command, options: &ApiOptions) -> u8 {
    let session = match session(options, command.is_by_secret()) {
        Ok(session) => session,
        Err(message) => {
            complain_of_usage(options.output, &message);
            return WRONG_USAGE;
        }
    };
    // Whether all is well, where that is the question.
    let well = |()| true;
    let result = match command {
        Command::Fsck(_) => session.fsck().await,
        Command::Doctor => session.doctor().await,
        Command::Api(command) => session.api(command).await.map(well),
        Command::Whoami => session.whoami().await.map(well),
        Command::Export(options) => session.export(&options).await.map(well),
        Command::Plan(options) => session.plan(&options).await,
        Command::Apply(options) => session.apply(&options).await.map(well),
        Command::Reconcile(command) => session.reconcile(command).await,
        Command::Audit(command) => session.audit(command).await.map(well),
        Command::Organization(command) => session.organization(command).await.map(well),
        Command::Project(command) => session.project(command).await.map(well),
        Command::Key(command) => session.key(command).await.map(well),
        Command::ServiceAccount(command) => session.service_account(command).await.map(well),
        Command::SpendLimit(command) => session.spend_limit(command).await.map(well),
        Command::Ledger(command) => session.ledger(command).await.map(well),
        Command::Upstream(command) => session.upstream(command).await,
        Command::Model(command) => session.model(*command).await,
        Command::Cost(command) => session.cost(command).await.map(well),
        Command::Usage(command) => session.usage(*command).await.map(well),
        _ => Ok(true),
    };
    ended(result, options)
}

fn ended(result: Result<bool, Failure>, options: &ApiOptions) -> u8 {
    match result {
        Ok(is_well) => u8::from(!is_well),
        Err(Failure::Usage(message)) => {
            complain_of_usage(options.output, &message);
            WRONG_USAGE
        }
        Err(Failure::NobodyReads) => BROKEN_PIPE,
        Err(Failure::Call(error)) => tollgate::api::failed(options.output, &error),
    }
}

async fn challenge(options: ChallengeOptions, api: &ApiOptions) -> u8 {
    let admin_key = match api.admin_key_file.as_deref().map(tollgate::api::read_secret).transpose() {
        Ok(admin_key) => admin_key,
        Err(message) => {
            complain_of_usage(api.output, &message);
            return WRONG_USAGE;
        }
    };
    ended(tollgate::challenge::challenge(options, admin_key, api.output).await, api)
}

/// A secret of the environment, where one is that is not empty.
#[expect(clippy::disallowed_methods, reason = "a secret has no flag that clap could read it for")]
fn from_environment(name: &str) -> Option<Secret> {
    let text = std::env::var(name).ok()?;
    (!text.trim().is_empty()).then(|| Secret::new(text.trim()))
}

/// Server and key: what a flag says goes before the environment, and that before the profile. A profile that a flag names takes
/// nothing from the environment, whose key may be another server's.
fn session(options: &ApiOptions, is_by_secret: bool) -> Result<Session, String> {
    let place = Place::usual();
    let config = place.as_ref().map(Place::config).transpose()?.unwrap_or_default();
    let is_flagged = options.said.profile;
    let key_file = options.admin_key_file.as_ref().filter(|_| options.said.admin_key_file || !is_flagged);
    let from_environment = |name| from_environment(name).filter(|_| !is_flagged);
    let key = match key_file {
        Some(file) => Some(tollgate::api::read_secret(file)?),
        None => from_environment("TOLLGATE_ADMIN_KEY"),
    };
    // The profile in use is a pair: a key that comes from elsewhere is not for its server, unless the profile is named.
    let meant = match (&key, &options.profile) {
        (Some(_), None) => None,
        (_, named) => config.meant(named.as_deref())?,
    };
    let url_said = options.url.as_deref().filter(|_| options.said.url || !is_flagged);
    let url = url_said.or(meant.as_ref().map(|(_, profile)| profile.url.as_str())).unwrap_or(URL_USUAL);
    let address = profile::server(url)?;
    let key = match (key, &meant, &place) {
        (Some(key), ..) => Some(key),
        (None, Some((name, profile)), Some(place)) => profile::key_for(place, name, profile, &address)?,
        (None, ..) => None,
    };
    // An OpenAI key goes only to a server that was named.
    let key = key.or_else(|| url_said.and_then(|_| from_environment("OPENAI_ADMIN_KEY")));
    // Whoever holds the secret that is meant needs no other.
    let key = key.or_else(|| is_by_secret.then(|| Secret::new("")));
    let key = key.ok_or(
        "There is no admin key: `tollgate login`, set TOLLGATE_ADMIN_KEY, or give --admin-key-file FILE. OPENAI_ADMIN_KEY is \
         used where --url or TOLLGATE_URL names the server.",
    )?;
    if !address.is_tls && !address.is_loopback() {
        complain(&format!("warning: the key is sent to {address} in plain."));
    }
    let timeout = options.timeout.map(|seconds| Duration::from_secs(seconds.max(1)));
    Ok(Session {
        client: Client::new(address, key).with(timeout, options.dry_run),
        view: view(options)?,
        is_quiet: options.quiet,
        is_sure: options.yes,
        is_coloured: is_coloured(options),
    })
}

fn view(options: &ApiOptions) -> Result<View, String> {
    Ok(View {
        format: options.output,
        fields: options.json.clone(),
        filter: options.jq.as_deref().map(Filter::read).transpose()?,
    })
}

fn is_coloured(options: &ApiOptions) -> bool {
    use std::io::IsTerminal;
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !options.no_color && !is_refused && std::io::stdout().is_terminal()
}

fn done(result: Result<(), Error>, output: Format) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            // Whoever is at the machine may see the cause, which an answer over HTTP keeps to the log.
            let message = match (error.kind, &error.source) {
                (Kind::Internal, Some(cause)) => cause.to_string(),
                (Kind::Unavailable, Some(cause)) => format!("{} {cause}", error.message),
                _ => error.message,
            };
            complain_of_failure(output, &message);
            FAILED
        }
    }
}

/// Servers log to stderr: to a terminal in words, else in JSON. Commands only complain.
fn start_log(command: &Command) {
    use std::io::IsTerminal;
    let level = match command {
        Command::Serve(_) | Command::Simulate(_) => "info",
        _ => "warn",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("TOLLGATE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().init();
    }
}

#[expect(clippy::print_stderr, reason = "errors of a command go there")]
fn complain(text: &str) {
    eprintln!("error: {text}");
}
