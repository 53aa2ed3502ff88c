//! A running server: the data directory, the threads, the planes, and how they start and stop together.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tollgate_admin::{Admin, Parts, chain};
use tollgate_alerts::{Alerts, UpstreamState};
use tollgate_console::Console;
use tollgate_core::secret::Keyring;
use tollgate_core::{Clock, Error, Result};
use tollgate_gateway::{Gateway, Pool};
use tollgate_ledger::{Ledger, recovery, retention};
use tollgate_replica::Replica;
use tollgate_store::{DataDir, Db, Home, Lock, MIGRATIONS, Migrated, Options, copy};
use tollgate_wire::{Dialer, Limits, Server, ServerTls};

use crate::access_log::AccessLog;
use crate::config::{Config, TlsFiles};
use crate::handover::{self, Offer};
use crate::metrics::{Metrics, Requests};
use crate::otel::Exporter;
use crate::service::{OpenMetrics, Worker};
use crate::{first_start, listener, secrets_file};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// So often the log says where the chains of audit events end.
const AUDIT_HEAD_EVERY: Duration = Duration::from_hours(1);
/// So often refused sign-ins are told that were counted together.
const FAILURES_EVERY: Duration = Duration::from_secs(5);
const LAST_USE_EVERY: Duration = Duration::from_secs(5);
/// How often what became of requests long ago is deleted.
const FORGETTING_EVERY: Duration = Duration::from_hours(1);
const METRICS_CONNECTIONS_MAX: usize = 64;
const TLS_LOOK_EVERY: Duration = Duration::from_secs(5);

/// A server that serves. Stop it with [`Node::stop`].
pub struct Node {
    /// Where it listens, which is not always what was asked for: port 0 takes a free one.
    pub address: SocketAddr,
    /// Where somebody on this machine reaches it, such as `http://127.0.0.1:8080`.
    pub url: String,
    db: Db,
    ledger: Ledger,
    admin: Option<Arc<Admin>>,
    replica: Arc<Replica>,
    is_ready: Arc<AtomicBool>,
    shutdown: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    background: Vec<AbortHandle>,
    exporter: Option<Arc<Exporter>>,
    drain: Duration,
    /// Dropped before the lock, which whoever takes over waits for.
    offer: Option<Offer>,
    _lock: Option<Lock>,
}

impl Node {
    /// Starts a server and returns when it is ready. It needs a tokio runtime, which carries its background tasks.
    pub async fn start(config: &Config, clock: Clock) -> Result<Self> {
        let home = &config.home;
        home.create()?;
        let tls = match &config.tls {
            Some(files) => Some(Arc::new(ServerTls::load(&files.certificate, &files.key)?)),
            None => None,
        };
        let (lock, listener) = places(config).await?;
        let address = listener.local_addr().map_err(|error| Error::internal(error.to_string()))?;
        let url = listener::url(address, tls.is_some());
        let db = open(home, &clock).await?;
        // Before anything is made that would be in the way of a second try.
        let to_hand_out = first_start::file_for(&db, config).await?;
        let keyring = keyring(&db, home, config.secrets.as_deref()).await?;
        if let Some(file) = to_hand_out {
            first_start::bootstrap(&db, &clock, &keyring, config, &url, file).await?;
        }
        copy::keep(&db).await?;
        db.claim().await?;
        chain::begin(&db, &keyring).await?;
        let recovered = recovery::settle_open_holds(&db, &clock).await?;
        if recovered > 0 {
            tracing::warn!(
                holds = recovered,
                "holds of a process that is gone were settled; see `recovered` requests"
            );
        }
        let replica = Replica::load(db.clone(), Arc::clone(&keyring), clock.clone()).await?;
        let options = tollgate_ledger::Options {
            durability: config.durability,
            free_bytes_min: config.free_bytes_min,
            ballast_bytes: config.ballast_bytes,
        };
        let ledger = Ledger::new(db.clone(), home.database_directory().cloned(), clock.clone(), options);
        let mut node = Self {
            address,
            url,
            db: db.clone(),
            ledger: ledger.clone(),
            admin: None,
            replica: Arc::clone(&replica),
            is_ready: Arc::new(AtomicBool::new(false)),
            shutdown: watch::Sender::new(false),
            cut: watch::Sender::new(false),
            workers: Vec::new(),
            background: Vec::new(),
            exporter: None,
            drain: config.drain,
            offer: home.data().and_then(|data| Offer::make(data.path(), &listener)),
            _lock: lock,
        };
        node.start_background(config.tls.as_ref().zip(tls.clone()));
        node.start_clearing(&clock);
        node.start_workers(config, &clock, keyring, &listener, tls.as_ref())?;
        node.is_ready.store(true, Ordering::Relaxed);
        Ok(node)
    }

    fn start_background(&mut self, tls: Option<(&TlsFiles, Arc<ServerTls>)>) {
        let (replica, ledger) = (Arc::clone(&self.replica), self.ledger.clone());
        self.background.push(tokio::spawn(async move { replica.follow().await }).abort_handle());
        self.background.push(tokio::spawn(async move { ledger.keep_house().await }).abort_handle());
        let replica = Arc::clone(&self.replica);
        let writing = async move {
            loop {
                tokio::time::sleep(LAST_USE_EVERY).await;
                if let Err(error) = replica.write_uses().await {
                    tracing::error!(%error, "the last uses of keys could not be written");
                }
            }
        };
        self.background.push(tokio::spawn(writing).abort_handle());
        let replica = Arc::clone(&self.replica);
        let forgetting = async move {
            loop {
                if let Err(error) = replica.forget_activity().await {
                    tracing::error!(%error, "what became of requests long ago could not be deleted");
                }
                tokio::time::sleep(FORGETTING_EVERY).await;
            }
        };
        self.background.push(tokio::spawn(forgetting).abort_handle());
        let db = self.db.clone();
        self.background.push(tokio::spawn(async move { db.look().await }).abort_handle());
        let db = self.db.clone();
        let publishing = async move {
            loop {
                if let Err(error) = publish_audit_heads(&db).await {
                    tracing::error!(%error, "the ends of the audit log could not be read");
                }
                tokio::time::sleep(AUDIT_HEAD_EVERY).await;
            }
        };
        self.background.push(tokio::spawn(publishing).abort_handle());
        if let Some((files, tls)) = tls {
            let files = files.clone();
            self.background.push(tokio::spawn(watch_certificate(files, tls)).abort_handle());
        }
    }

    /// Has the audit log told of sign-ins that were refused and counted together.
    fn tell_failures(&mut self, admin: &Arc<Admin>) {
        let telling = Arc::clone(admin);
        let telling = async move {
            loop {
                tokio::time::sleep(FAILURES_EVERY).await;
                if let Err(error) = telling.tell_failures(false).await {
                    tracing::error!(%error, "refused sign-ins could not be told the audit log");
                }
            }
        };
        self.background.push(tokio::spawn(telling).abort_handle());
    }

    fn start_workers(
        &mut self,
        config: &Config,
        clock: &Clock,
        keyring: Arc<Keyring>,
        listener: &std::net::TcpListener,
        tls: Option<&Arc<ServerTls>>,
    ) -> Result<()> {
        let dialer = Dialer::new(tollgate_wire::client_config(), CONNECT_TIME_MAX);
        self.start_exporter(config, &dialer);
        let alert_keyring = Arc::clone(&keyring);
        let options = tollgate_gateway::Options {
            answer_time_max: config.upstream_timeout,
            stall_time_max: config.upstream_timeout,
            under_way_max: config.in_flight_max,
            ..tollgate_gateway::Options::default()
        };
        let (replica, ledger) = (Arc::clone(&self.replica), self.ledger.clone());
        let gateway =
            Arc::new(Gateway::new(replica, self.db.clone(), ledger, clock.clone(), dialer.clone(), options));
        let watching = Arc::clone(&gateway);
        let admin = Arc::new(Admin::new(Parts {
            db: self.db.clone(),
            replica: Arc::clone(&self.replica),
            keyring,
            clock: clock.clone(),
            dialer: dialer.clone(),
            ledger: self.ledger.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            public_url: config.public_url.as_ref().map_or_else(|| self.url.clone(), ToString::to_string),
            oidc: config.oidc.clone(),
            upstreams_down: Arc::new(move |id| watching.is_upstream_down(id)),
        })?);
        self.admin = Some(Arc::clone(&admin));
        let console = Arc::new(Console::new(Arc::clone(&admin), config.is_plain()));
        self.tell_failures(&admin);
        self.start_alerts(config, clock, alert_keyring, &dialer, Arc::clone(&gateway));
        let metrics = Arc::new(Metrics {
            requests: Requests::default(),
            gateway: Arc::clone(&gateway),
            db: self.db.clone(),
            clock: clock.clone(),
        });
        let access_log = config.access_log.as_deref().map(AccessLog::open).transpose()?.map(Arc::new);
        self.serve_metrics(config, &metrics)?;
        let limits = Limits {
            connections_max: listener::connections_max(config.connections_max).div_ceil(config.workers),
            ..Limits::default()
        };
        for number in 0..config.workers {
            let worker = Arc::new(Worker {
                admin: Arc::clone(&admin),
                console: Arc::clone(&console),
                gateway: Arc::clone(&gateway),
                pool: Pool::default(),
                clock: clock.clone(),
                metrics: Arc::clone(&metrics),
                access_log: access_log.clone(),
                exporter: self.exporter.clone(),
                is_ready: Arc::clone(&self.is_ready),
                db: self.db.clone(),
            });
            let failed =
                |error: std::io::Error| Error::internal("a worker could not be started").source(error);
            let listener = listener.try_clone().map_err(failed)?;
            let plan = Plan { listener, tls: tls.cloned(), limits: limits.clone(), clock: clock.clone() };
            let (shutdown, cut) = (self.shutdown.subscribe(), self.cut.subscribe());
            let work = move || run_worker(plan, worker, shutdown, cut);
            let thread =
                std::thread::Builder::new().name(format!("worker-{number}")).spawn(work).map_err(failed)?;
            self.workers.push(thread);
        }
        Ok(())
    }

    /// Deletes requests that need not be kept any more.
    fn start_clearing(&mut self, clock: &Clock) {
        let (db, clock) = (self.db.clone(), clock.clone());
        let clearing = async move { retention::keep(&db, &clock).await };
        self.background.push(tokio::spawn(clearing).abort_handle());
    }

    /// Tells people what they wanted to be told.
    fn start_alerts(
        &mut self,
        config: &Config,
        clock: &Clock,
        keyring: Arc<Keyring>,
        dialer: &Dialer,
        gateway: Arc<Gateway>,
    ) {
        let (private, mailer) = (config.webhook_networks.clone(), config.mailer.clone());
        let upstreams = move || {
            let states = gateway.upstreams_down().into_iter();
            states.map(|(id, name, is_down)| UpstreamState { id, name, is_down }).collect()
        };
        let db = self.db.clone();
        let alerts = Alerts::new(db, keyring, clock.clone(), dialer, private, mailer, Arc::new(upstreams));
        self.background.push(tokio::spawn(async move { alerts.run().await }).abort_handle());
    }

    /// Sends traces to a collector, if there is one.
    fn start_exporter(&mut self, config: &Config, dialer: &Dialer) {
        let Some(options) = &config.otlp else { return };
        let exporter = Arc::new(Exporter::new(options.clone(), dialer.clone()));
        self.exporter = Some(Arc::clone(&exporter));
        self.background.push(tokio::spawn(async move { exporter.run().await }).abort_handle());
    }

    /// Where its database is, for people.
    pub fn database(&self) -> String {
        self.db.place()
    }

    /// Returns when another process has taken the listening socket, to go on in this one's place.
    pub async fn taken_over(&self) {
        match &self.offer {
            Some(offer) => offer.taken().await,
            None => std::future::pending().await,
        }
    }

    /// Serves the figures on an address of their own, if there is one.
    fn serve_metrics(&mut self, config: &Config, metrics: &Arc<Metrics>) -> Result<()> {
        let Some(address) = config.metrics_listen else { return Ok(()) };
        let listener = listener::bind(address)?;
        let failed = |error: std::io::Error| Error::internal("the metrics cannot be served").source(error);
        tracing::info!(address = %listener.local_addr().map_err(failed)?, "serving metrics");
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let limits = Limits { connections_max: METRICS_CONNECTIONS_MAX, ..Limits::default() };
        let server = Server { listener, tls: None, limits, clock: metrics.clock.clone() };
        let service = Arc::new(OpenMetrics(Arc::clone(metrics)));
        let shutdown = self.shutdown.subscribe();
        self.background.push(tokio::spawn(server.run(service, shutdown)).abort_handle());
        Ok(())
    }

    /// Lets requests in flight end, for as long as was configured, and closes everything. What does not end in time is
    /// cut, and settled like anything that is cut.
    pub async fn stop(mut self) {
        self.is_ready.store(false, Ordering::Relaxed);
        self.shutdown.send_replace(true);
        let workers = std::mem::take(&mut self.workers);
        let (done, mut is_done) = watch::channel(false);
        std::thread::spawn(move || {
            for worker in workers {
                let _ = worker.join();
            }
            done.send_replace(true);
        });
        if tokio::time::timeout(self.drain, is_done.wait_for(|done| *done)).await.is_err() {
            tracing::warn!(drain = ?self.drain, "requests in flight did not end in time and are cut");
            self.cut.send_replace(true);
            let _ = tokio::time::timeout(Duration::from_secs(5), is_done.wait_for(|done| *done)).await;
        }
        let _ = tokio::time::timeout(Duration::from_secs(10), self.ledger.flush()).await;
        if let Err(error) = self.replica.write_uses().await {
            tracing::error!(%error, "the last uses of keys could not be written");
        }
        for task in &self.background {
            task.abort();
        }
        if let Some(admin) = &self.admin
            && let Err(error) = admin.tell_failures(true).await
        {
            tracing::error!(%error, "refused sign-ins could not be told the audit log");
        }
        if let Some(exporter) = &self.exporter {
            exporter.send_all(&mut None).await;
        }
        self.db.close();
    }
}

/// What a worker serves.
struct Plan {
    listener: std::net::TcpListener,
    tls: Option<Arc<ServerTls>>,
    limits: Limits,
    clock: Clock,
}

/// One worker: a thread with a runtime of its own, so that a connection never leaves its processor.
fn run_worker(
    plan: Plan,
    worker: Arc<Worker>,
    shutdown: watch::Receiver<bool>,
    mut cut: watch::Receiver<bool>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker has no runtime"),
    };
    runtime.block_on(async move {
        let Plan { listener, tls, limits, clock } = plan;
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a worker cannot listen"),
        };
        let server = Server { listener, tls, limits, clock };
        let tending = Arc::clone(&worker);
        tokio::select! {
            () = server.run(worker, shutdown) => {}
            () = tending.pool.tend() => {}
            () = tollgate_ledger::postman() => {}
            _ = cut.wait_for(|cut| *cut) => {}
        }
    });
    // Tasks still running are dropped with the runtime, and with them the holds they carry.
}

/// Says in the log, which is kept elsewhere, where the chains of audit events end: whoever cuts one short later is found out.
async fn publish_audit_heads(db: &Db) -> Result<()> {
    for checkpoint in chain::checkpoints(db).await? {
        tracing::info!(%checkpoint, "audit log");
    }
    Ok(())
}

/// The lock of the directory, if there is one, and the socket to listen on: from the process whose place this one takes, from
/// systemd, or new.
async fn places(config: &Config) -> Result<(Option<Lock>, std::net::TcpListener)> {
    let data = config.home.data();
    let taken = match data.filter(|_| config.take_over) {
        Some(data) => handover::take(data.path())?,
        None => None,
    };
    let Some(taken) = taken else {
        let lock = config.home.lock()?;
        let listener = match listener::inherited()? {
            Some(listener) => listener::adopt(listener, config.listen)?,
            None => listener::bind(config.listen)?,
        };
        return Ok((lock, listener));
    };
    listener::check(&taken.listener, config.listen)?;
    let listener = listener::adopt(taken.confirm()?, config.listen)?;
    // The other ends what it is at first.
    let lock = match data {
        Some(data) => Some(lock_when_free(data).await?),
        None => None,
    };
    Ok((lock, listener))
}

async fn lock_when_free(directory: &DataDir) -> Result<Lock> {
    const PAUSE: Duration = Duration::from_millis(20);
    loop {
        match directory.lock() {
            Ok(lock) => return Ok(lock),
            Err(_) if directory.is_locked() => tokio::time::sleep(PAUSE).await,
            // It was given up just now, or cannot be had for another reason.
            Err(_) => return directory.lock(),
        }
    }
}

/// Opens the database, new or old, and brings its schema up to date.
async fn open(home: &Home, clock: &Clock) -> Result<Db> {
    let db = home.open(Options { create: true, read_only: false })?;
    migrate(&db, home, clock).await?;
    Ok(db)
}

/// Brings a database to the schema of this version.
pub(crate) async fn migrate(db: &Db, home: &Home, clock: &Clock) -> Result<()> {
    match db.migrate(home.database_directory(), MIGRATIONS, clock).await? {
        Migrated::Upgraded { copy: Some(copy) } => {
            tracing::info!(copy = %copy.display(), "the database was migrated; a copy from before was kept");
        }
        Migrated::Upgraded { copy: None } => tracing::info!("the database was migrated"),
        Migrated::Created | Migrated::Unchanged => {}
    }
    Ok(())
}

/// The master keys of the installation, checked against what the database was written with.
pub(crate) async fn keyring(db: &Db, home: &Home, path: Option<&Path>) -> Result<Arc<Keyring>> {
    let is_first_start = !db.read(|tx| Box::pin(secrets_file::has_fingerprints(tx))).await?;
    let path = home.secrets(path)?;
    let keyring = Arc::new(secrets_file::load(&path, is_first_start)?);
    let checking = Arc::clone(&keyring);
    db.write(move |tx| Box::pin(async move { secrets_file::check_fingerprints(tx, &checking).await }))
        .await?;
    Ok(keyring)
}

/// The same beside a server, without writing anything.
pub(crate) async fn keyring_to_read(db: &Db, home: &Home, path: Option<&Path>) -> Result<Keyring> {
    let path = home.secrets(path)?;
    let keyring = secrets_file::load(&path, false)?;
    let checking = keyring.clone();
    db.read(move |tx| Box::pin(async move { secrets_file::compare_fingerprints(tx, &checking).await }))
        .await?;
    Ok(keyring)
}

/// Looks whether the certificate's files have changed, and takes them if they fit together.
async fn watch_certificate(files: TlsFiles, tls: Arc<ServerTls>) {
    let stamp = || {
        let of = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        (of(&files.certificate), of(&files.key))
    };
    let mut seen = stamp();
    loop {
        tokio::time::sleep(TLS_LOOK_EVERY).await;
        let now = stamp();
        if now == seen {
            continue;
        }
        match tls.reload(&files.certificate, &files.key) {
            Ok(()) => {
                seen = now;
                tracing::info!(certificate = %files.certificate.display(), "a new certificate is in use");
            }
            // Half of the pair may be replaced; the next look sees the other half.
            Err(error) => tracing::warn!(%error, "the changed certificate cannot be used; the old one stays"),
        }
    }
}
