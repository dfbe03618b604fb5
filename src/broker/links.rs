//! What links a broker to others: a depot's leaf link to the hub, the hub's door for depots, a hub of several servers; and
//! what may pass (BROKER 1).
//!
//! The lists allow what durable sourcing needs in both directions and questions of the hub to the depot's roles, nothing
//! else. What is missing from them fails without a word on either side, so they are exact, and tests try them.

use std::path::{Path, PathBuf};

/// The hub's authorities, in a depot's store.
pub(super) const CA_FILE: &str = "hub-ca.pem";

/// The account that everything of Roadcall is in.
pub(super) const ACCOUNT: &str = "RC";

/// What this broker proves itself with (PEM files).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Its certificate.
    pub cert_file: PathBuf,
    /// The key.
    pub key_file: PathBuf,
    /// The authorities that other servers of the cluster are to be signed by.
    pub ca_file: Option<PathBuf>,
}

/// The oldest TLS that is spoken.
const TLS_MIN: &str = "min_version: \"1.3\"";

impl Proof {
    fn files(&self) -> String {
        let path = |path: &Path| quoted(&path.display().to_string());
        format!(
            "cert_file: {}, key_file: {}, {TLS_MIN}",
            path(&self.cert_file),
            path(&self.key_file)
        )
    }

    /// For those who connect as clients.
    pub(super) fn clients(&self) -> String {
        format!("tls {{ {} }}\n", self.files())
    }

    /// For depots: nothing is said before the handshake.
    fn leafs(&self) -> String {
        format!(", tls {{ {}, handshake_first: true }}", self.files())
    }

    /// For the cluster: both sides prove themselves.
    fn cluster(&self) -> String {
        let ca = self.ca_file.as_ref().map_or_else(String::new, |ca| {
            let ca = quoted(&ca.display().to_string());
            format!(", ca_file: {ca}, verify: true")
        });
        format!(", tls {{ {}{ca} }}", self.files())
    }
}

/// What this broker is linked to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// The hub's broker, at a depot.
    pub hub: Option<Remote>,
    /// Where depots' brokers connect, `host:port`, at the hub.
    pub leaf_listen: Option<String>,
    /// The depots that may.
    pub leafs: Vec<Leaf>,
    /// The other servers of a hub that is a cluster.
    pub cluster: Option<Cluster>,
    /// With what the hub proves itself; nothing for links in the clear.
    pub proof: Option<Proof>,
    /// Whether clients may choose between TLS and the clear, also on this machine: for `roadcall bench`, which compares both on
    /// one broker.
    pub clients_choose: bool,
}

impl Links {
    /// Whether there is any.
    #[must_use]
    pub fn any(&self) -> bool {
        self.hub.is_some() || self.leaf_listen.is_some() || self.cluster.is_some()
    }
}

/// The hub's door as a depot sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct Remote {
    /// `nats-leaf://host:port`, one for each server of the hub.
    pub urls: Vec<String>,
    /// The depot's user there.
    pub user: String,
    /// Its password, where it has no seed.
    pub password: String,
    /// The seed of its identity.
    pub seed: String,
    /// The authorities that the hub's certificate is to be signed by, as PEM text; nothing for a link in the clear.
    pub ca: Option<String>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

/// A depot that may connect.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Its site, which is its user's name where it has a password.
    pub site: String,
    /// Its password; empty for none.
    pub password: String,
    /// The public keys that it may prove.
    pub keys: Vec<String>,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf")
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

/// This server's place in a hub of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its name among them.
    pub server_name: String,
    /// Where the others connect, `host:port`.
    pub listen: String,
    /// All of them, `nats://host:port`.
    pub routes: Vec<String>,
}

/// A text as nats-server's configuration reads it.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list(texts: impl IntoIterator<Item = String>) -> String {
    let quoted: Vec<String> = texts.into_iter().map(|text| quoted(&text)).collect();
    format!("[{}]", quoted.join(", "))
}

/// The hub's users for a depot, one for each way in which it may prove itself, with what may come from there and go there.
pub(super) fn leaf_users(leaf: &Leaf) -> Vec<String> {
    let site = &leaf.site;
    let from_depot = [
        // It begins to read the hub's events behind the last that it has.
        format!("$JS.hub.API.CONSUMER.RESET.EVENTS.src-{site}"),
        // The answers to the hub's own request of that kind, and the flow control of both directions.
        format!("$JSC.R.{site}.*.EVENTS.src-hub.*"),
        format!("$JS.FC.hub.*.EVENTS.src-{site}.>"),
        // Its events.
        format!("rc.src.hub.{site}"),
        // Its roles' answers to the hub's questions.
        format!("rc.reply.{site}.>"),
        // Its own questions: what it lacks of what it was to get.
        format!("svc.roadcall.hub.depot.{site}.>"),
    ];
    let to_depot = [
        format!("$JS.{site}.API.>"),
        format!("$JSC.R.hub.*.EVENTS.src-{site}.*"),
        format!("$JS.FC.{site}.*.EVENTS.src-hub.>"),
        format!("rc.src.{site}"),
        format!("svc.roadcall.{site}.>"),
        format!("rc.reply.hub.{site}.>"),
    ];
    let permissions = format!(
        "permissions: {{ publish: {{ allow: {} }}, subscribe: {{ allow: {} }} }}",
        list(from_depot),
        list(to_depot)
    );
    let password = (!leaf.password.is_empty()).then(|| {
        let (user, password) = (quoted(site), quoted(&leaf.password));
        format!("{{ user: {user}, password: {password}, {permissions} }}")
    });
    let keys = leaf.keys.iter();
    let keys = keys.map(|key| format!("{{ nkey: {}, {permissions} }}", quoted(key)));
    password.into_iter().chain(keys).collect()
}

/// What of a depot's JetStream stays closed to the hub: all but the reset of the hub's own consumer. The hub's list has to
/// let the whole of it through, see BROKER 1.
fn closed_to_hub(site: &str) -> impl Iterator<Item = String> {
    const API: [&str; 6] = [
        "INFO",
        "ACCOUNT.>",
        "STREAM.>",
        "DIRECT.>",
        "META.>",
        "SERVER.>",
    ];
    const CONSUMER: [&str; 10] = [
        "CREATE", "DURABLE", "DELETE", "LIST", "NAMES", "INFO", "MSG", "PAUSE", "UNPIN", "LEADER",
    ];
    let api = API.iter().map(move |name| format!("$JS.{site}.API.{name}"));
    let consumer = CONSUMER
        .iter()
        .map(move |name| format!("$JS.{site}.API.CONSUMER.{name}.>"));
    api.chain(consumer)
}

/// The block `leafnodes`; empty where there is no link.
pub(super) fn leafnodes(site: &str, links: &Links, store_dir: &Path) -> String {
    let mut parts = Vec::new();
    if let Some(listen) = &links.leaf_listen {
        // Not advertised: depots would go past a proxy straight to an address that they may not reach (BROKER 0 K).
        let tls = links.proof.as_ref().map_or_else(String::new, Proof::leafs);
        parts.push(format!(
            "listen: {}, no_advertise: true{tls}",
            quoted(listen)
        ));
    }
    if let Some(hub) = &links.hub {
        let urls = hub.urls.iter().map(|url| with_user(url, hub));
        // The server waits that long between attempts and adds up to a second by chance, so that depots that lost the hub
        // together do not come back together.
        parts.push(format!(
            "reconnect: \"1s\", remotes: [{{ urls: {}, {}account: {ACCOUNT}, deny_imports: {}{} }}]",
            list(urls),
            match hub.seed.as_str() {
                "" => String::new(),
                seed => format!("nkey: {}, ", quoted(seed)),
            },
            list(closed_to_hub(site)),
            hub.ca.as_ref().map_or_else(String::new, |_| {
                let ca = quoted(&store_dir.join(CA_FILE).display().to_string());
                format!(", tls {{ ca_file: {ca}, {TLS_MIN}, handshake_first: true }}")
            })
        ));
    }
    match parts.is_empty() {
        true => String::new(),
        false => format!("leafnodes {{ {} }}\n", parts.join(", ")),
    }
}

/// `nats-leaf://user:password@host:port`; who has a seed needs no user.
fn with_user(url: &str, hub: &Remote) -> String {
    if !hub.seed.is_empty() {
        return url.to_owned();
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats-leaf", url));
    format!("{scheme}://{}:{}@{rest}", hub.user, hub.password)
}

/// The block `cluster`; empty where the hub is one server.
pub(super) fn cluster(links: &Links) -> String {
    links.cluster.as_ref().map_or_else(String::new, |cluster| {
        format!(
            "cluster {{ name: \"hub\", listen: {}, routes: {}{} }}\n",
            quoted(&cluster.listen),
            list(cluster.routes.iter().cloned()),
            links
                .proof
                .as_ref()
                .map_or_else(String::new, Proof::cluster)
        )
    })
}
