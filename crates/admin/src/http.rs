//! The administration API over HTTP: path, query and body to arguments, result to answer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};
use tollgate_core::error::Kind;
use tollgate_core::key::KeyKind;
use tollgate_core::network::Networks;
use tollgate_core::{Error, ProjectId, Result, input, not_served};
use tollgate_replica::{Refused, key_expiry_header};
use tollgate_wire::{Exchange, Reply, percent_decoded};

use crate::acceptance;
use crate::actor::{Actor, Origin};
use crate::arguments::Arguments;
use crate::gate::Admin;
use crate::operation::{Access, Method, Operation, Operations};
use crate::query::Query;

/// No administration request is longer.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Networks whose word on the client's address is taken.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Networks);

impl TrustedProxies {
    /// Reads `10.0.0.0/8` and the like; a single address stands for itself.
    pub fn parse<S: AsRef<str>>(networks: &[S]) -> Result<Self> {
        Networks::parse(networks).map(Self)
    }

    /// The client's address: the peer's, or if that is a trusted proxy, the last one named that is none.
    pub fn client(&self, peer: IpAddr, forwarded: &[&str]) -> IpAddr {
        if !self.0.contains(peer) {
            return peer;
        }
        let mut client = peer;
        for name in forwarded.iter().rev().flat_map(|line| line.split(',').rev()) {
            let Ok(address) = name.trim().parse::<IpAddr>() else { return client };
            client = address.to_canonical();
            if !self.0.contains(client) {
                return client;
            }
        }
        client
    }
}

/// What a path names: `project_id` and the like, with their values.
type PathNames = Vec<(String, String)>;

/// Which operation a method and a path call.
pub(crate) struct Routes {
    paths: matchit::Router<Vec<Arc<Operation>>>,
    ids: HashMap<&'static str, Arc<Operation>>,
}

impl Routes {
    pub(crate) fn new(operations: Operations) -> Self {
        let mut paths: Vec<(String, Vec<Arc<Operation>>)> = Vec::new();
        let mut ids = HashMap::new();
        let mut add = |path: String, operation: &Arc<Operation>| match paths
            .iter_mut()
            .find(|(known, _)| *known == path)
        {
            Some((_, operations)) => operations.push(Arc::clone(operation)),
            None => paths.push((path, vec![Arc::clone(operation)])),
        };
        for operation in operations.into_rows().into_iter().map(Arc::new) {
            add(operation.path.to_owned(), &operation);
            ids.insert(operation.id, Arc::clone(&operation));
            // The article that started this project spells the resource so.
            if let Some((before, after)) = operation.path.split_once("/projects/{project_id}/api_keys") {
                add(format!("{before}/projects/{{project_id}}/apikeys{after}"), &operation);
            }
        }
        let mut router = matchit::Router::new();
        for (path, operations) in paths {
            router.insert(path, operations).expect("the paths of the tables do not contradict each other");
        }
        Self { paths: router, ids }
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<&Arc<Operation>> {
        self.ids.get(id)
    }

    /// The operation and what its path names.
    fn find(&self, method: &str, path: &str) -> Result<(&Arc<Operation>, PathNames)> {
        let unknown = || not_served::unknown_url(method, path);
        let found = self.paths.at(path).map_err(|_| unknown())?;
        let Some(operation) = found.value.iter().find(|operation| operation.method.as_str() == method) else {
            return Err(self.wrong_method(method, path, found.value));
        };
        let names = found.params.iter().map(|(name, value)| Some((name.to_owned(), percent_decoded(value)?)));
        Ok((operation, names.collect::<Option<_>>().ok_or_else(unknown)?))
    }

    fn wrong_method(&self, method: &str, path: &str, there: &[Arc<Operation>]) -> Error {
        let allowed: Vec<&str> = there.iter().map(|operation| operation.method.as_str()).collect();
        let allowed = allowed.join(", ");
        let mut message = format!("Method {method} is not allowed for {path}. Allowed: {allowed}.");
        let item = format!("{path}/_");
        let deletes_items = self
            .paths
            .at(&item)
            .is_ok_and(|item| item.value.iter().any(|operation| operation.method == Method::Delete));
        if method == "DELETE" && deletes_items {
            use std::fmt::Write;
            let _ = write!(message, " To delete one of them, name it: DELETE {path}/{{id}}.");
        }
        Error::new(Kind::MethodNotAllowed, message).code("method_not_allowed").header("allow", allowed)
    }
}

impl Admin {
    /// Answers one request of the administration.
    /// Says which path it was, with names in place of what it names.
    pub async fn serve(&self, exchange: &mut Exchange) -> Option<&'static str> {
        let mut route = None;
        match self.answer(exchange, &mut route).await {
            // Some answers show a secret, all of them show what is not for caches.
            Ok(body) => exchange.respond(&Reply::json(200, body).header("cache-control", "no-store")).await,
            Err(error) => exchange.fail(&error).await,
        }
        route
    }

    /// Whether whoever asks has an operator's key.
    pub fn check_operator(&self, exchange: &Exchange) -> Result<()> {
        self.desk.replica.check_fresh()?;
        self.authenticate(exchange, None)?.authorize(Access::Operator)
    }

    /// The address of the client, behind the proxies that are trusted.
    pub fn client_address(&self, exchange: &Exchange) -> Option<IpAddr> {
        self.origin(exchange).ip
    }

    async fn answer(&self, exchange: &mut Exchange, route: &mut Option<&'static str>) -> Result<Vec<u8>> {
        if exchange.head.path() == acceptance::API && exchange.head.method() == "POST" {
            *route = Some(acceptance::API);
            return self.accept_invite(exchange).await;
        }
        let (operation, names) = self.routes.find(exchange.head.method(), exchange.head.path())?;
        *route = Some(operation.path);
        self.desk.replica.check_fresh()?;
        let project = names.iter().find(|(name, _)| name == "project_id");
        let project = project.and_then(|(_, id)| ProjectId::parse(id));
        let actor = self.authenticate(exchange, project)?;
        exchange.set_header("openai-organization", actor.organization.to_string());
        if let Some((name, value)) = key_expiry_header(actor.expires_at, self.desk.clock.now()) {
            exchange.set_header(name, value);
        }
        actor.authorize(operation.access)?;
        let arguments = match operation.method {
            Method::Get | Method::Delete => Arguments::Query(Query::parse(exchange.head.query())?),
            Method::Post => Arguments::Body(read_body(exchange).await?),
        };
        self.call(actor, operation, arguments.with_path(&names)?).await
    }

    /// The one operation that needs no key; with one it is for the account that owns it.
    async fn accept_invite(&self, exchange: &mut Exchange) -> Result<Vec<u8>> {
        self.desk.replica.check_fresh()?;
        self.throttle.pass_address(self.origin(exchange).ip, self.desk.clock.now())?;
        let owner = if exchange.head.headers.bearer().is_some() {
            let actor = self.authenticate(exchange, None)?;
            let is_whole = actor.scopes.is_unrestricted() && actor.restricted_to.is_none();
            actor.owner.user().filter(|_| actor.kind == KeyKind::Admin && is_whole)
        } else {
            None
        };
        let body = Arguments::Body(read_body_of(exchange, acceptance::FORM_MAX).await?);
        let accepted = self.accept(body.read()?, owner, self.origin(exchange)).await?;
        serde_json::to_vec(&accepted)
            .map_err(|error| Error::internal("an answer cannot be written").source(error))
    }

    fn authenticate(&self, exchange: &Exchange, project: Option<ProjectId>) -> Result<Actor> {
        let headers = &exchange.head.headers;
        let presented = headers.bearer().ok_or_else(Refused::missing)?;
        let snapshot = self.desk.replica.snapshot();
        let now = self.desk.clock.now();
        let key = snapshot
            .verify(&self.desk.keyring, presented, now)
            .map_err(|refused| refused.error(presented))?;
        Refused::unless_organization(headers.all("openai-organization"), key)?;
        Refused::unless_project(headers.all("openai-project"), key.project)?;
        self.desk.replica.note_use(key, now);
        Ok(Actor::of(key, &snapshot, project, self.origin(exchange)))
    }

    /// Where a request comes from.
    pub fn origin(&self, exchange: &Exchange) -> Origin {
        const USER_AGENT_MAX: usize = 256;
        let headers = &exchange.head.headers;
        let forwarded: Vec<&str> =
            headers.all("x-forwarded-for").filter_map(|line| std::str::from_utf8(line).ok()).collect();
        Origin {
            ip: Some(self.trusted_proxies.client(exchange.peer(), &forwarded)),
            user_agent: headers.get("user-agent").map(|agent| agent.chars().take(USER_AGENT_MAX).collect()),
        }
    }
}

/// The body's object; none at all is an empty one, as some clients post it.
async fn read_body(exchange: &mut Exchange) -> Result<Map<String, Value>> {
    read_body_of(exchange, BODY_BYTES_MAX).await
}

async fn read_body_of(exchange: &mut Exchange, bytes_max: usize) -> Result<Map<String, Value>> {
    let bytes = exchange.read_body(bytes_max).await.map_err(|error| error.into_error(bytes_max))?;
    let text = bytes.trim_ascii();
    // Rust's async-openai posts the latter where there is nothing to say.
    if text.is_empty() || text == b"null" {
        Ok(Map::new())
    } else {
        input::from_json::<UniqueKeys>(&bytes).map(|object| object.0)
    }
}

/// An object that names nothing twice, at any depth.
struct UniqueKeys(Map<String, Value>);

struct UniqueValue(Value);

impl<'de> serde::Deserialize<'de> for UniqueKeys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match deserializer.deserialize_map(UniqueVisitor)?.0 {
            Value::Object(object) => Ok(Self(object)),
            _ => Err(serde::de::Error::custom("expected an object")),
        }
    }
}

impl<'de> serde::Deserialize<'de> for UniqueValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> serde::de::Visitor<'de> for UniqueVisitor {
    type Value = UniqueValue;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: serde::de::MapAccess<'de>>(
        self,
        mut map: M,
    ) -> std::result::Result<UniqueValue, M::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value: UniqueValue = map.next_value()?;
            if object.contains_key(&key) {
                return Err(serde::de::Error::custom(format_args!("duplicate field `{key}`")));
            }
            object.insert(key, value.0);
        }
        Ok(UniqueValue(Value::Object(object)))
    }

    fn visit_seq<S: serde::de::SeqAccess<'de>>(
        self,
        mut seq: S,
    ) -> std::result::Result<UniqueValue, S::Error> {
        let mut list = Vec::new();
        while let Some(UniqueValue(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(UniqueValue(Value::Array(list)))
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<UniqueValue, E> {
        Ok(UniqueValue(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<UniqueValue, E> {
        Ok(UniqueValue(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<UniqueValue, E> {
        Ok(UniqueValue(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<UniqueValue, E> {
        Ok(UniqueValue(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<UniqueValue, E> {
        Ok(UniqueValue(value.into()))
    }

    fn visit_unit<E>(self) -> std::result::Result<UniqueValue, E> {
        Ok(UniqueValue(Value::Null))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_all_tables_fit_together() {
        let routes = Routes::new(crate::operations());
        let (operation, names) =
            routes.find("GET", "/v1/organization/projects/proj_1/apikeys/key%5F1").unwrap();
        assert_eq!(operation.path, "/v1/organization/projects/{project_id}/api_keys/{api_key_id}");
        assert_eq!(names[1], ("api_key_id".to_owned(), "key_1".to_owned()));
        let error = routes.find("DELETE", "/v1/organization/projects/proj_1/apikeys").err().unwrap();
        assert!(
            error.message.contains("DELETE /v1/organization/projects/proj_1/apikeys/{id}"),
            "{}",
            error.message
        );
        assert_eq!(error.headers, [("allow", "GET, POST".to_owned())]);
        assert!(
            routes
                .find("GET", "/v1/organization/nonsense")
                .err()
                .unwrap()
                .message
                .starts_with("Invalid URL (GET")
        );
    }

    #[test]
    fn an_address_is_believed_only_from_a_trusted_proxy() {
        let proxies = TrustedProxies::parse(&["10.0.0.0/8", "fd00::/8", "192.0.2.1"]).unwrap();
        let client =
            |peer: &str, forwarded: &[&str]| proxies.client(peer.parse().unwrap(), forwarded).to_string();
        assert_eq!(client("198.51.100.7", &["1.2.3.4"]), "198.51.100.7");
        assert_eq!(client("10.1.1.1", &["1.2.3.4, 203.0.113.9, 10.2.2.2"]), "203.0.113.9");
        assert_eq!(client("::ffff:10.1.1.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client("fd12::1", &["1.2.3.4", "10.0.0.9"]), "1.2.3.4");
        assert_eq!(client("192.0.2.1", &["nonsense"]), "192.0.2.1");
        assert_eq!(client("10.1.1.1", &[]), "10.1.1.1");
        assert!(TrustedProxies::parse(&["10.0.0.0/33"]).is_err() && TrustedProxies::parse(&["x"]).is_err());
    }

    #[test]
    fn a_body_that_names_something_twice_is_refused() {
        let read = |text: &str| input::from_json::<UniqueKeys>(text.as_bytes()).map(|object| object.0);
        assert_eq!(read(r#"{"a":[1,{"b":null}],"c":"d"}"#).unwrap().len(), 2);
        assert_eq!(read(r#"{"a":1,"a":2}"#).err().unwrap().param.as_deref(), Some("a"));
        assert!(read(r#"{"a":{"b":1,"b":2}}"#).is_err());
    }
}
