//! An uplink with loss and delay as the kernel makes them: the depot in a network namespace of its own, a pair of virtual
//! interfaces between it and the hub, and `tc netem` on both ends.
//!
//! That needs root, `ip`, `tc` and a kernel with netem; where one is missing, the test says so and is left out.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::place::{Place, nothing_lost, same_everywhere};
use super::{add, publish};
use crate::support::{free_port, sized};

/// A depot's namespace; it goes when it is dropped, and its interfaces with it.
struct Network {
    name: String,
}

/// The hub's end and the depot's end: of the uplink, and of the quiet wire that the test itself uses.
const UPLINK: [&str; 2] = ["10.213.77.1", "10.213.77.2"];
const QUIET: [&str; 2] = ["10.213.78.1", "10.213.78.2"];

fn run(words: &[&str]) -> Result<(), String> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", words[0]))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", words.join(" "), said.trim()))
}

impl Network {
    fn new() -> Result<Self, String> {
        let name = format!("rc{}", std::process::id());
        run(&["ip", "netns", "add", &name])?;
        let network = Self { name };
        let name = &network.name;
        let within = |words: &[&str]| run(&[&["ip", "netns", "exec", name], words].concat());
        within(&["ip", "link", "set", "lo", "up"])?;
        for (end, [here, there]) in [("u", UPLINK), ("q", QUIET)] {
            let (near, far) = (format!("{name}{end}h"), format!("{name}{end}d"));
            run(&[
                "ip", "link", "add", &near, "type", "veth", "peer", "name", &far,
            ])?;
            run(&["ip", "link", "set", &far, "netns", name])?;
            run(&["ip", "address", "add", &format!("{here}/30"), "dev", &near])?;
            run(&["ip", "link", "set", &near, "up"])?;
            within(&["ip", "address", "add", &format!("{there}/30"), "dev", &far])?;
            within(&["ip", "link", "set", &far, "up"])?;
            if end == "u" {
                let bad = ["root", "netem", "loss", "5%", "delay", "150ms"];
                run(&[&["tc", "qdisc", "add", "dev", &near], &bad[..]].concat())?;
                within(&[&["tc", "qdisc", "add", "dev", &far], &bad[..]].concat())?;
            }
        }
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was not made can't be removed.
        let _ = run(&["ip", "netns", "delete", &self.name]);
        for end in ["u", "q"] {
            let _ = run(&["ip", "link", "delete", &format!("{}{end}h", self.name)]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_percent_loss_and_300_ms_lose_no_event() {
    let network = match Network::new() {
        Ok(network) => network,
        Err(why) => {
            eprintln!("left out: no network namespaces with netem here ({why})");
            return;
        }
    };
    let root = tempfile::TempDir::new().expect("a directory");
    let leaf = format!("{}:{}", UPLINK[0], free_port());
    let more = format!("leaf_listen = '{leaf}'\nleaf_url = ['nats-leaf://{leaf}']");
    let mut hub = Place::new(root.path(), "hub", "hub", free_port(), &more);
    hub.start();
    hub.ready().await;
    let depot = Place::new(root.path(), "depot-a", "depot-a", free_port(), "");
    let mut depot = depot.inside(&network.name, QUIET[1]);
    hub.json(&add("depot-a", &depot));
    depot.start();
    depot.ready().await;
    let (hub_bus, depot_bus) = (hub.connect().await, depot.connect().await);
    let count = sized(500, 5000);
    for _ in 0..count {
        tokio::join!(publish(&hub_bus, "hub"), publish(&depot_bus, "depot-a"));
    }
    let since = Instant::now();
    same_everywhere(&hub_bus, &[("depot-a", &depot_bus)]).await;
    nothing_lost(&[&hub, &depot]).await;
    eprintln!(
        "{count} events on either side, 5 % loss, 300 ms there and back: all there {:.1} s later (with the audit)",
        since.elapsed().as_secs_f64()
    );
}
