//! Beside the scenarios: photos and papers of an incident, from those who are there (DOMAIN 5.1, `incident.add_media`).

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_come_from_the_driver_and_the_vendor_who_is_there_and_from_no_stranger() {
    let world = World::new().await;
    world.vendor(1, NYC, &["tire_repair"], 4.5).await;
    let driver = world.account("driver", 1).await;
    let (incident, _) = world.assigned(&driver, "tire", NYC).await;
    let photo = json!({ "incidentId": incident, "contentType": "image/jpeg", "sizeBytes": 10_000_000, "clientRequestId": "m1" });

    let first = world.ok(&driver, "incident.add_media", photo.clone()).await;
    assert_eq!(
        (&first["kind"], &first["uploadedBy"]),
        (&json!("photo"), &json!(driver))
    );
    let key = format!("incident/{incident}/{}.jpg", text(&first["mediaId"]));
    assert_eq!(first["objectKey"], key);
    let (given, until) = (at(&text(&first["uploadedAt"])), &first["uploadUntil"]);
    assert_eq!(at(&text(until)).ms() - given.ms(), 900 * SECOND);
    let again = world.ok(&driver, "incident.add_media", photo.clone()).await;
    assert_eq!(
        again["mediaId"], first["mediaId"],
        "a retry is the same medium"
    );

    let vendor = as_vendor(1);
    let paper = json!({ "incidentId": incident, "contentType": "application/pdf", "sizeBytes": 1 });
    let second = world.ok(&vendor, "incident.add_media", paper.clone()).await;
    assert_eq!(second["kind"], "document");

    let stranger = world.account("driver", 2).await;
    for other in [&stranger, &as_vendor(2), &world.office] {
        let reply = world.call(other, "incident.add_media", paper.clone()).await;
        assert_eq!(code(&reply), "AUTHORIZATION_ERROR", "{other}: {reply}");
    }
    for (field, value) in [
        ("sizeBytes", json!(10_000_001)),
        ("sizeBytes", json!(0)),
        ("contentType", json!("text/html")),
        ("objectKey", json!("mine")),
    ] {
        let mut wrong = paper.clone();
        wrong[field] = value;
        let reply = world.call(&driver, "incident.add_media", wrong).await;
        assert_eq!(code(&reply), "VALIDATION_ERROR", "{field}: {reply}");
        assert_eq!(reply["error"]["field"], field, "{reply}");
    }

    let seen = world.incident(&incident).await;
    let ids = |media: &Value| -> BTreeSet<String> {
        let media = media.as_array().expect("a list").iter();
        media.map(|medium| text(&medium["mediaId"])).collect()
    };
    let both = [&first, &second].map(|medium| text(&medium["mediaId"]));
    assert_eq!(ids(&seen["media"]), BTreeSet::from(both));

    for (command, status) in [
        ("incident.update_status", Some("vendor_en_route")),
        ("incident.update_status", Some("vendor_arrived")),
        ("incident.start_work", None),
    ] {
        let more = status.map_or(json!({}), |status| json!({ "status": status }));
        let reply = world.change(BOSS, command, &incident, more).await;
        assert!(reply.get("ok").is_some(), "{command}: {reply}");
    }
    let foreign = world.breakdown(&stranger, "tire", NYC).await;
    let body = json!({ "incidentId": foreign, "contentType": "video/mp4", "sizeBytes": 5 });
    let foreign = world.ok(&stranger, "incident.add_media", body).await;
    let done = |medium: &Value| json!({ "mediaIds": [medium["mediaId"]] });
    let reply = world.change(&vendor, "incident.complete_work", &incident, done(&foreign));
    let reply = reply.await;
    assert_eq!(
        (code(&reply).as_str(), &reply["error"]["field"]),
        ("VALIDATION_ERROR", &json!("mediaIds")),
        "another incident's: {reply}"
    );
    let reply = world.change(&vendor, "incident.complete_work", &incident, done(&first));
    let reply = reply.await;
    assert!(reply.get("ok").is_some(), "{reply}");
    let told = world.hears("WorkCompleted", &incident, 1).await;
    assert_eq!(told[0]["mediaUrls"], json!([key]));
    world.end().await;
}
