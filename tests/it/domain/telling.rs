//! S16 and S17: who is told what on which channels, and what he is spared.

use serde_json::{Value, json};

use super::*;
use crate::support::ends::{hooks, sms};

/// Entries of a type in a person's log that have ended, by channel: sent or why not.
async fn ended(world: &World, actor: &str, kind: &str, count: usize) -> Vec<(String, String)> {
    world.letters(actor, kind, count).await;
    let log = world.log(actor).await.into_iter();
    let of_kind = log.filter(|entry| entry[1] == kind);
    let mut found: Vec<(String, String)> = of_kind
        .map(|[channel, _, status, reason]| match status.as_str() {
            "sent" => (channel, status),
            _ => (channel, reason),
        })
        .collect();
    found.sort();
    found
}

fn times(found: &[(String, String)], channel: &str, what: &str) -> usize {
    let wanted = (channel.to_owned(), what.to_owned());
    found.iter().filter(|entry| **entry == wanted).count()
}

impl World {
    /// What was sent to a phone.
    fn texts_to(&self, phone: &str) -> Vec<String> {
        let orders = self.texts.seen();
        let orders = orders.iter().map(sms::order);
        orders
            .filter(|order| order.to == phone)
            .map(|order| order.text)
            .collect()
    }

    /// Push messages of a type to a person's device: whether each was silent.
    fn pushed(&self, user: &str, kind: &str) -> Vec<bool> {
        let seen = self.pushes.seen();
        let bodies = seen.iter().map(|request| hooks::order(request).1);
        let his = |body: &Value| body["devices"].to_string().contains(user) && body["type"] == kind;
        bodies
            .filter(his)
            .map(|body| body["silent"] == true)
            .collect()
    }

    /// A vendor with an account of his own, at NYC; gives his id.
    async fn vendor_with_account(&self, n: u64) -> Id {
        let actor = self.account("vendor", n).await;
        let id = Id::parse(actor.split_once(':').expect("an actor").1).expect("an id");
        self.vendor_as(id, n, profile(n, NYC, &["tire_repair"]), 5.0)
            .await;
        id
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s16_the_eleventh_sms_of_an_hour_is_dropped_but_no_code_no_offer_and_no_other_channel() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    let id = world.vendor_with_account(1).await;
    let (vendor, number) = (format!("vendor:{id}"), phone("vendor", 1));
    let start = world.now();
    for n in 1..=11 {
        world.set(Ts::from_ms(start.ms() + (n - 1) * MINUTE));
        world.approved_for(id, n as u64).await;
        world
            .letters(&vendor, "payment_approved", 3 * n as usize)
            .await;
    }
    let found = ended(&world, &vendor, "payment_approved", 33).await;
    assert_eq!(times(&found, "sms", "sent"), 10);
    assert_eq!(times(&found, "sms", "sms_limit"), 1);
    assert_eq!(times(&found, "push", "sent"), 11);
    assert_eq!(times(&found, "email", "sent"), 11);
    assert_eq!(world.texts_to(&number).len(), 10);

    world
        .ok(DOOR, "auth.request_otp", json!({ "phone": number }))
        .await;
    eventually("the code", || async {
        (world.texts_to(&number).len() == 11).then_some(())
    })
    .await;
    let incident = world.breakdown(&driver, "tire", NYC).await;
    let offers = world.offers(&incident, 1).await;
    let told = world.letters(&vendor, "offer_received", 2).await;
    assert_eq!(told, ["push", "sms"]);
    assert_eq!(world.texts_to(&number).len(), 12);
    world.decline(&offers[0]).await;

    world.set(Ts::from_ms(start.ms() + 61 * MINUTE));
    world.approved_for(id, 12).await;
    let found = ended(&world, &vendor, "payment_approved", 36).await;
    assert_eq!(times(&found, "sms", "sent"), 11);
    assert_eq!(world.texts_to(&number).len(), 13);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s17_at_night_only_what_is_urgent_makes_a_sound() {
    let world = World::with("2024-07-02T02:50:00.000Z", |_| {}).await;
    let driver = world.account("driver", 1).await;
    let id = world.vendor_with_account(1).await;
    let vendor = format!("vendor:{id}");
    let night = json!({ "userId": id, "expectedVersion": 0,
        "quietHours": { "start": "22:00", "end": "08:00", "timezone": "America/New_York" } });
    world
        .ok(&vendor, "notification.set_preferences", night)
        .await;
    world.set(at("2024-07-02T03:00:00.000Z"));
    world.approved_for(id, 1).await;
    let found = ended(&world, &vendor, "payment_approved", 3).await;
    let word = |channel: &str, what: &str| (channel.to_owned(), what.to_owned());
    let spared = [
        word("email", "quiet_hours"),
        word("push", "sent"),
        word("sms", "quiet_hours"),
    ];
    assert_eq!(found, spared);
    let user = id.to_string();
    assert_eq!(world.pushed(&user, "payment_approved"), [true], "silent");

    let incident = world.breakdown(&driver, "tire", NYC).await;
    let offers = world.offers(&incident, 1).await;
    assert_eq!(
        world.letters(&vendor, "offer_received", 2).await,
        ["push", "sms"]
    );
    assert_eq!(world.pushed(&user, "offer_received"), [false]);
    world.decline(&offers[0]).await;
    world.quiet().await;

    world.set(at("2024-07-02T12:01:00.000Z"));
    world.approved_for(id, 2).await;
    let found = ended(&world, &vendor, "payment_approved", 6).await;
    for channel in ["email", "sms"] {
        assert_eq!(times(&found, channel, "sent"), 1, "{found:?}");
    }
    assert_eq!(world.pushed(&user, "payment_approved"), [true, false]);
    world.end().await;
}
