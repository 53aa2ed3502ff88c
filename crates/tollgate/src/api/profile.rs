//! Profiles: servers by a name, each with the key for it. What is secret is in a file of its own that only its owner can read, and
//! is sent to the server of its profile alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_core::Address;
use tollgate_core::secret::Secret;

use crate::api::client::Client;
use crate::api::output::{self, Format};
use crate::api::secret_input;
use crate::api::session::{Done, Failure, Session};
use crate::api::table;

const CONFIG: &str = "config.toml";
const CREDENTIALS: &str = "credentials.toml";
const USUAL: &str = "default";

#[derive(Args, Debug)]
pub struct LoginCommand {
    /// Read the admin key from stdin instead of asking for it
    #[arg(long)]
    with_token: bool,
}

#[derive(Subcommand, Debug)]
pub enum ProfileCommand {
    /// Show them
    List,
    /// Use this one from now on
    Use { name: String },
    /// Forget one and its key
    Rm { name: String },
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The one in use.
    profile: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub url: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials(BTreeMap<String, Credential>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credential {
    admin_key: Secret,
}

/// Where they are: `TOLLGATE_CONFIG_HOME`, else `XDG_CONFIG_HOME/tollgate`, else `~/.config/tollgate`.
pub struct Place(PathBuf);

impl Place {
    pub fn usual() -> Option<Self> {
        let own = std::env::var_os("TOLLGATE_CONFIG_HOME").map(PathBuf::from);
        let of_user = || std::env::var_os("XDG_CONFIG_HOME").map(|home| PathBuf::from(home).join("tollgate"));
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config/tollgate"));
        own.or_else(of_user).or_else(home).filter(|path| path.is_absolute()).map(Self)
    }

    fn read<T: Default + serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, String> {
        let path = self.0.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
            Err(error) => Err(format!("Cannot read {}: {error}.", path.display())),
        }
    }

    pub fn config(&self) -> Result<Config, String> {
        self.read(CONFIG)
    }

    fn credentials(&self) -> Result<Credentials, String> {
        let path = self.0.join(CREDENTIALS);
        if let Ok(there) = std::fs::metadata(&path)
            && there.permissions().mode() & 0o077 != 0
        {
            return Err(format!("{} can be read by others. Take that away: chmod 600.", path.display()));
        }
        self.read(CREDENTIALS)
    }

    /// Writes a file that only its owner can read, whole or not at all.
    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let failed =
            |error: std::io::Error| format!("Cannot write {}: {error}.", self.0.join(name).display());
        std::fs::create_dir_all(&self.0).map_err(failed)?;
        let (path, new) = (self.0.join(name), self.0.join(format!(".{name}.{}", std::process::id())));
        let written = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        };
        written().map_err(failed)
    }

    fn write_config(&self, config: &Config) -> Result<(), String> {
        let mut text = String::new();
        if let Some(profile) = &config.profile {
            let _ = writeln!(text, "profile = {}", quoted(profile));
        }
        for (name, profile) in &config.profiles {
            let _ = writeln!(text, "\n[profiles.{}]\nurl = {}", quoted(name), quoted(&profile.url));
        }
        self.write(CONFIG, &text)
    }

    fn write_credentials(&self, credentials: &Credentials) -> Result<(), String> {
        let all = credentials.0.iter();
        let text = all.map(|(name, one)| {
            format!("[{}]\nadmin_key = {}\n", quoted(name), quoted(one.admin_key.reveal()))
        });
        self.write(CREDENTIALS, &text.collect::<Vec<_>>().join("\n"))
    }
}

/// A text of TOML's; no key and no name has what would need more.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r', '\t'], " "))
}

impl Config {
    /// The profile that is meant, by a flag or because it is in use. One that is named must be there.
    pub fn meant(&self, named: Option<&str>) -> Result<Option<(String, Profile)>, String> {
        let Some(name) = named.or(self.profile.as_deref()) else { return Ok(None) };
        let known = || {
            if self.profiles.is_empty() {
                return "There are none; `tollgate login --profile NAME --url URL` makes one.".to_owned();
            }
            format!("There are: {}.", self.profiles.keys().cloned().collect::<Vec<_>>().join(", "))
        };
        let found = self.profiles.get(name).cloned();
        found
            .map(|profile| Some((name.to_owned(), profile)))
            .ok_or_else(|| format!("There is no profile `{name}`. {}", known()))
    }
}

/// The key of a profile, for a server: that of the profile, and no other.
pub fn key_for(
    place: &Place,
    name: &str,
    profile: &Profile,
    server: &Address,
) -> Result<Option<Secret>, String> {
    let own = Address::parse(&profile.url)
        .map_err(|why| format!("The URL of profile `{name}` cannot be used: {why}."))?;
    if own.origin() != server.origin() {
        return Err(format!(
            "The key of profile `{name}` is for {}, and is not sent to {server}. Give another by TOLLGATE_ADMIN_KEY or \
             --admin-key-file, or name another profile.",
            profile.url
        ));
    }
    Ok(place.credentials()?.0.remove(name).map(|credential| credential.admin_key))
}

/// Reads the URL of a server. A base URL ends in /v1, and that is meant where nothing is said.
pub fn server(url: &str) -> Result<Address, String> {
    let mut address = Address::parse(url).map_err(|why| format!("--url `{url}` cannot be used: {why}."))?;
    if address.path.is_empty() {
        "/v1".clone_into(&mut address.path);
    }
    Ok(address)
}

fn place() -> Result<Place, Failure> {
    Place::usual().ok_or_else(|| {
        Failure::Usage("There is no home directory to keep profiles in: set TOLLGATE_CONFIG_HOME.".to_owned())
    })
}

/// `tollgate login`: asks for a key, tries it, and keeps it.
pub async fn login(
    command: &LoginCommand,
    named: Option<&str>,
    url: &str,
) -> Result<(String, Value), Failure> {
    let place = place()?;
    let address = server(url)?;
    let key = if command.with_token {
        secret_input::read(Path::new("-"))?
    } else {
        secret_input::ask("Admin key: ")?
    };
    let client = Client::new(address, key.clone());
    let who = whoami(&client).await?;
    if who["kind"] != "admin" {
        return Err("This is the key of a project: it opens no administration. Give an admin key."
            .to_owned()
            .into());
    }
    let name = named.unwrap_or(USUAL).to_owned();
    let mut config = place.config()?;
    let mut credentials = place.credentials()?;
    config.profiles.insert(name.clone(), Profile { url: url.to_owned() });
    config.profile = Some(name.clone());
    credentials.0.insert(name.clone(), Credential { admin_key: key });
    place.write_credentials(&credentials)?;
    place.write_config(&config)?;
    Ok((name, who))
}

/// What the key is; OpenAI tells only whether it opens anything.
async fn whoami(client: &Client) -> Result<Value, Failure> {
    if client.is_openai() {
        client.get("/organization/admin_api_keys", &[("limit", "1".to_owned())]).await?;
        return Ok(json!({"id": null, "name": "an admin key of OpenAI's", "kind": "admin", "scopes": null}));
    }
    Ok(client.get("/tollgate/v1/me", &[]).await?)
}

/// `tollgate logout`: forgets the key of a profile.
pub fn logout(named: Option<&str>) -> Result<String, Failure> {
    let place = place()?;
    let (name, _) = place.config()?.meant(named)?.ok_or("There is no profile to log out of.".to_owned())?;
    let mut credentials = place.credentials()?;
    if credentials.0.remove(&name).is_none() {
        return Err(format!("Profile `{name}` has no key.").into());
    }
    place.write_credentials(&credentials)?;
    Ok(name)
}

/// `tollgate profile`; returns what is shown.
pub fn profile(command: &ProfileCommand) -> Result<Option<Value>, Failure> {
    let place = place()?;
    let mut config = place.config()?;
    match command {
        ProfileCommand::List => {
            let credentials = place.credentials()?;
            let row = |(name, profile): (&String, &Profile)| {
                json!({"id": name, "name": name, "url": profile.url, "in_use": config.profile.as_ref() == Some(name),
                    "has_key": credentials.0.contains_key(name)})
            };
            Ok(Some(config.profiles.iter().map(row).collect()))
        }
        ProfileCommand::Use { name } => {
            config.meant(Some(name))?;
            config.profile = Some(name.clone());
            place.write_config(&config)?;
            Ok(None)
        }
        ProfileCommand::Rm { name } => {
            config.meant(Some(name))?;
            config.profiles.remove(name);
            if config.profile.as_ref() == Some(name) {
                config.profile = None;
            }
            let mut credentials = place.credentials()?;
            credentials.0.remove(name);
            place.write_credentials(&credentials)?;
            place.write_config(&config)?;
            Ok(None)
        }
    }
}

/// Shows them, or what a key is.
pub fn show(format: Format, what: &Value) -> Done {
    let columns = if what.is_array() { table::PROFILES } else { table::ME };
    Ok(output::show(format, columns, what)?)
}

impl Session {
    /// `tollgate whoami`.
    pub async fn whoami(&self) -> Done {
        self.show(table::ME, &whoami(&self.client).await?)?;
        self.say(&format!("at {}", self.client.address()));
        Ok(())
    }
}
