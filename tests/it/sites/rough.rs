//! An uplink with loss and delay: the depot in a network namespace of its own and a pair of virtual interfaces between it and
//! the hub. The kernel loses one packet in twenty of each direction, by `tc netem` where it has that, which makes the delay as
//! well; else by a rule of `nft`, and the delay is made by the test's wire in front of the hub.
//!
//! That needs root, `ip`, and `tc` or `nft`; where one is missing, the test says so and is left out.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::place::{Place, nothing_lost, same_everywhere};
use super::wire::{Weather, Wire};
use super::{add, publish};
use crate::support::{free_port, sized};

/// A depot's namespace; it goes when it is dropped, and its interfaces with it.
struct Network {
    name: String,
    /// Whether the kernel makes the delay, too.
    late: bool,
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
        let mut network = Self { name, late: true };
        let name = &network.name.clone();
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
                let netem = run(&[&["tc", "qdisc", "add", "dev", &near], &bad[..]].concat())
                    .and_then(|()| {
                        within(&[&["tc", "qdisc", "add", "dev", &far], &bad[..]].concat())
                    });
                if netem.is_err() {
                    network.late = false;
                    lossy(&within, &far)?;
                }
            }
        }
        Ok(network)
    }
}

/// One packet in twenty of each direction is lost at the depot's end.
fn lossy(within: &dyn Fn(&[&str]) -> Result<(), String>, interface: &str) -> Result<(), String> {
    within(&["nft", "add", "table", "inet", "rough"])?;
    for (chain, hook, way) in [
        ("come", "input", "iifname"),
        ("go", "postrouting", "oifname"),
    ] {
        let base = format!("{{ type filter hook {hook} priority 0; }}");
        within(&["nft", "add", "chain", "inet", "rough", chain, &base])?;
        let rule = ["nft", "add", "rule", "inet", "rough", chain, way, interface];
        let lost = ["numgen", "random", "mod", "100", "<", "5", "drop"];
        within(&[&rule[..], &lost[..]].concat())?;
    }
    Ok(())
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
            eprintln!("left out: no network namespaces with netem or nft here ({why})");
            return;
        }
    };
    let root = tempfile::TempDir::new().expect("a directory");
    let door = free_port();
    let wire = Wire::at([10, 213, 77, 1], door, 5).await;
    let (listen, leaf) = match network.late {
        true => {
            let leaf = format!("{}:{door}", UPLINK[0]);
            (leaf.clone(), leaf)
        }
        false => {
            let (late_ms, reset) = (150, 0.0);
            wire.set(Weather::Rough { late_ms, reset });
            (
                format!("127.0.0.1:{door}"),
                format!("{}:{}", UPLINK[0], wire.port),
            )
        }
    };
    let more = format!("leaf_listen = '{listen}'\nleaf_url = ['nats-leaf://{leaf}']");
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
