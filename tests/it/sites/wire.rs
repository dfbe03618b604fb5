//! A TCP proxy in front of the hub's door for depots: the test's hand on the uplink.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

/// What the wire does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weather {
    /// Everything passes.
    Clear,
    /// Connections are reset and new ones refused.
    Cut,
    /// Connections stay, nothing passes, nothing is lost: it goes on where it stopped.
    Hole,
    /// Each piece comes so many milliseconds late, and with this chance its connection is reset instead.
    Rough { late_ms: u64, reset: f64 },
}

/// What somebody who listens in has.
pub type Heard = Arc<Mutex<Vec<u8>>>;

/// Bytes that are kept of it at the most.
const HEARD_MAX: usize = 8 << 20;

/// The wire.
pub struct Wire {
    pub port: u16,
    weather: watch::Sender<Weather>,
    /// Connections that have come through so far.
    pub connections: Arc<AtomicU64>,
    /// The first bytes that went over it, in both directions.
    pub heard: Heard,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wire {
    /// From a port of its own to `target` on this machine.
    pub async fn to(target: u16, seed: u64) -> Self {
        Self::at([127, 0, 0, 1], target, seed).await
    }

    /// The same on another address of this machine.
    pub async fn at(address: [u8; 4], target: u16, seed: u64) -> Self {
        let listener = listen(SocketAddr::from((address, 0))).await;
        let at = listener.local_addr().expect("an address");
        let port = at.port();
        let (weather, seen) = watch::channel(Weather::Clear);
        let connections = Arc::new(AtomicU64::new(0));
        let heard = Heard::default();
        let seen_by = (Arc::clone(&connections), Arc::clone(&heard));
        let task = tokio::spawn(run(listener, at, target, seen, seen_by, seed));
        Self {
            port,
            weather,
            connections,
            heard,
            task,
        }
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Waits until a connection came through that was not there at `before`.
    pub async fn again(&self, before: u64) {
        crate::support::eventually("a depot comes in again", || async {
            (self.connections.load(Ordering::SeqCst) > before).then_some(())
        })
        .await;
    }

    pub fn so_far(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn listen(at: SocketAddr) -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("set");
    socket.bind(at).expect("bound");
    socket.listen(64).expect("listening")
}

async fn run(
    first: TcpListener,
    at: SocketAddr,
    target: u16,
    mut weather: watch::Receiver<Weather>,
    (connections, heard): (Arc<AtomicU64>, Heard),
    seed: u64,
) {
    let mut listener = Some(first);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    loop {
        let cut = *weather.borrow_and_update() == Weather::Cut;
        match (cut, &listener) {
            (true, _) => listener = None,
            (false, None) => listener = Some(listen(at).await),
            _ => {}
        }
        let Some(open) = &listener else {
            if weather.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = weather.changed() => if changed.is_err() { return },
            accepted = open.accept() => {
                let Ok((near, _)) = accepted else { continue };
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
                    // The hub is down: whoever knocks is to see that.
                    let _ = near.set_zero_linger();
                    continue;
                };
                connections.fetch_add(1, Ordering::SeqCst);
                let heard = Arc::clone(&heard);
                tokio::spawn(carry(near, far, weather.clone(), heard, random.random()));
            }
        }
    }
}

/// One connection, until an end is closed or the weather ends it.
async fn carry(
    near: TcpStream,
    far: TcpStream,
    mut weather: watch::Receiver<Weather>,
    heard: Heard,
    seed: u64,
) {
    // However it ends, both ends get a reset: what a lost uplink looks like.
    let _ = (near.set_zero_linger(), far.set_zero_linger());
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let up = pump(near_in, far_out, weather.clone(), Arc::clone(&heard), seed);
    let down = pump(
        far_in,
        near_out,
        weather.clone(),
        heard,
        seed.wrapping_add(1),
    );
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = weather.wait_for(|weather| *weather == Weather::Cut) => {}
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    heard: Heard,
    seed: u64,
) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (pieces, mut due) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(256);
    let mut sees = weather.clone();
    let read = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            {
                let mut heard = heard.lock().expect("nobody panics with it");
                if heard.len() < HEARD_MAX {
                    heard.extend_from_slice(&buffer[..count]);
                }
            }
            let late = match *sees.borrow_and_update() {
                Weather::Rough { reset, .. } if random.random_bool(reset) => return,
                Weather::Rough { late_ms, .. } => Duration::from_millis(late_ms),
                _ => Duration::ZERO,
            };
            let piece = (Instant::now() + late, buffer[..count].to_vec());
            if pieces.send(piece).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if weather.wait_for(|now| *now != Weather::Hole).await.is_err() {
                return;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
