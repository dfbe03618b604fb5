//! An event's story for people: one thing a line, what is open or wrong with its reasons under it.

use std::fmt::Write;

use crate::cli::failure::Failure;
use crate::cli::output::{age, say};
use crate::node::inquiry::Source;
use crate::node::story::{Cause, LetterLine, Link, QueueStory, Story};

pub(super) fn print(story: &Story) -> Result<(), Failure> {
    let token = |at: usize| story.subject.split('.').nth(at).unwrap_or("?");
    let (site, service, detail_type, entity) = (token(1), token(2), token(3), token(4));
    say(format_args!("{detail_type}  {}", story.event_id))?;
    let line = |name: &str, words: String| say(format_args!("  {name:10}  {words}"));
    line("about", format!("{service} {entity}"))?;
    if let Some(time) = story
        .event
        .as_ref()
        .and_then(|event| event["time"].as_str())
    {
        let ago = story
            .age_seconds
            .map_or_else(String::new, |seconds| format!(", {} ago", age(seconds)));
        line("happened", format!("{time} at site {site}{ago}"))?;
    }
    line(
        "archived",
        format!("{} as sequence {}", story.received_at, story.seq),
    )?;
    if let Some(error) = &story.invalid {
        line("invalid", error.clone())?;
    }
    let made_by = |producer: &String| format!("{producer} (role, store epoch, number)");
    let producer = story.producer.as_ref().map(made_by);
    line(
        "published",
        producer.unwrap_or_else(|| "by no role of ours".to_owned()),
    )?;
    if let Some(delivery) = &story.delivery {
        line("emitted", format!("while handling a {delivery}"))?;
    }
    print_causes(story.cause.as_ref())?;
    for link in &story.led_to {
        line("led to", short(link))?;
    }
    if story.led_to.is_empty() {
        line(
            "led to",
            format!("nothing up to sequence {}", story.led_to_searched_to),
        )?;
    }
    for hop in &story.sync_hops {
        line("came by", hop.clone())?;
    }
    say("")?;
    if story.queues.is_empty() {
        say("No queue of this site takes it.")?;
    }
    for queue in &story.queues {
        print_queue(queue)?;
    }
    for letter in &story.letters {
        print_letter(letter)?;
    }
    Ok(())
}

fn short(link: &Link) -> String {
    format!(
        "{} {}, sequence {}",
        link.detail_type, link.event_id, link.seq
    )
}

fn print_causes(mut cause: Option<&Cause>) -> Result<(), Failure> {
    if cause.is_none() {
        return say("  caused by   nothing: it is a first event");
    }
    let mut name = "caused by";
    while let Some(Cause {
        id,
        event,
        cause: next,
    }) = cause
    {
        let words = event.as_ref().map_or_else(
            || format!("{id}: a command, or an event that the archive does not have"),
            short,
        );
        say(format_args!("  {name:10}  {words}"))?;
        name = "that by";
        cause = next.as_deref();
    }
    Ok(())
}

fn print_queue(story: &QueueStory) -> Result<(), Failure> {
    say(format_args!("{:20}  {}", story.queue, outcome(story)))?;
    say(format_args!("  by          {}", routed(story)))?;
    for attempt in &story.attempts {
        say(format_args!(
            "  failed      {}: {}",
            attempt.at, attempt.error
        ))?;
    }
    for call in story.effects.iter().flatten() {
        let (kind, key, state, at) = (&call.kind, &call.key, &call.state, call.requested_at);
        say(format_args!(
            "  effect      {kind} {key}, asked for at {at}, {state}"
        ))?;
    }
    if let Some(note) = &story.note {
        say(format_args!("  not known   {note}"))?;
    }
    Ok(())
}

fn outcome(story: &QueueStory) -> String {
    let mut words = match (story.outcome.as_str(), &story.waiting, &story.ended) {
        (outcome, _, Some(ended)) => format!("{outcome} at {}", ended.at),
        (_, Some(waits), _) => {
            let why = match waits.why.as_str() {
                "retry" => format!("waiting: try {} failed", waits.attempts.len()),
                "behind" => "waiting behind an earlier one of its entity".to_owned(),
                "notYet" => "waiting for a predecessor".to_owned(),
                _ => "waiting: the process died with it in hand".to_owned(),
            };
            let next = waits
                .due_at
                .map_or_else(String::new, |due| format!(", next at {due}"));
            format!("{why}{next}")
        }
        ("pending", ..) => "pending: the broker has not handed it out".to_owned(),
        ("inHand", ..) => "in hand: handed out, not acknowledged".to_owned(),
        ("unaccounted", ..) => {
            "unaccounted: the queue is past it, the role has no record of it".to_owned()
        }
        (outcome, ..) => outcome.to_owned(),
    };
    if story.from == Some(Source::File) {
        // A String always takes what is written to it.
        let _ = write!(
            words,
            " (from the database of role {}, which does not answer)",
            story.role
        );
    }
    words
}

fn routed(story: &QueueStory) -> String {
    let (filter, queue) = (&story.filter, &story.queue);
    let rule = match &story.rule {
        Some(rule) if story.residual => rule,
        Some(rule) => return format!("no rule; {rule} takes its type, but its pattern says no"),
        None => return format!("no rule; {queue} sees it because its filter {filter} is wide"),
    };
    match story.max_event_age_seconds {
        None => format!("rule {rule}, at any age"),
        Some(seconds) => {
            let now = match story.decision {
                "handle" => "young enough now",
                "giveUp" => "given up at any, because it can't be read",
                "late" => "older than that now: would be handled and counted as late",
                "escalate" => "older than that now: would be handled as too old",
                _ => "older than that now: would expire",
            };
            format!("rule {rule}, up to an age of {}; {now}", age(seconds))
        }
    }
}

fn print_letter(letter: &LetterLine) -> Result<(), Failure> {
    let (queue, seq) = (&letter.queue, letter.seq);
    let Some(reason) = letter.reason else {
        return say(format_args!("letter of {queue}: {}", letter.state));
    };
    let tries = letter.deliveries.unwrap_or(0);
    let at = letter.dead_at.as_deref().unwrap_or("?");
    say(format_args!(
        "letter of {queue}: {reason} after {tries} tries, {at}; roadcall dlq show --queue {queue} --seq {seq}"
    ))
}
