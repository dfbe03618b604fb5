//! Cutting texts into chunks and queries into terms (DOMAIN 5.10).

use std::collections::BTreeSet;

/// Characters in a chunk at the most.
pub const CHUNK_MAX: usize = 5000;

/// Paragraphs joined to chunks of at most [`CHUNK_MAX`] characters; a longer paragraph is cut between words where it can
/// be. Nothing for a text without a word.
#[must_use]
pub fn chunks(text: &str) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    for paragraph in paragraphs(text) {
        for piece in pieces(&paragraph) {
            let length = piece.chars().count();
            match chunks.last_mut() {
                Some(last) if last.chars().count() + 2 + length <= CHUNK_MAX => {
                    last.push_str("\n\n");
                    last.push_str(&piece);
                }
                _ => chunks.push(piece),
            }
        }
    }
    chunks.retain(|chunk| chunk.chars().any(char::is_alphanumeric));
    chunks
}

/// The parts between empty lines.
fn paragraphs(text: &str) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    for line in text.lines() {
        match paragraphs.last_mut() {
            Some(last) if !line.trim().is_empty() => {
                if !last.is_empty() {
                    last.push('\n');
                }
                last.push_str(line.trim_end());
            }
            _ => paragraphs.push(String::new()),
        }
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    paragraphs
}

fn pieces(paragraph: &str) -> Vec<String> {
    let mut left: Vec<char> = paragraph.chars().collect();
    let mut pieces = Vec::new();
    while left.len() > CHUNK_MAX {
        let space = left[..CHUNK_MAX].iter().rposition(|c| c.is_whitespace());
        let rest = left.split_off(space.filter(|at| *at > 0).unwrap_or(CHUNK_MAX));
        pieces.push(left.iter().collect::<String>().trim().to_owned());
        left = rest;
    }
    pieces.push(left.iter().collect::<String>().trim().to_owned());
    pieces
}

/// The distinct words of a text, in lower case.
#[must_use]
pub fn terms(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// The first `count` words of a text.
#[must_use]
pub fn first_words(text: &str, count: usize) -> String {
    let mut words = text.split_whitespace();
    let taken: Vec<&str> = words.by_ref().take(count).collect();
    taken.join(" ")
}

/// 0.95 × share of the query's terms in the chunk × its bm25 over the best one of the query, to 2 decimals.
#[must_use]
pub fn confidence(query: &BTreeSet<String>, chunk: &str, bm25: f64, best: f64) -> f64 {
    let inside = terms(chunk);
    let shared = query.intersection(&inside).count();
    let share = shared as f64 / query.len().max(1) as f64;
    let rank = if best == 0.0 { 0.0 } else { bm25 / best };
    (0.95 * share * rank * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_joined_up_to_the_limit() {
        let long = "word ".repeat(600);
        let text = format!("{long}\n\n{long}\n \nshort");
        let chunks = chunks(&text);
        let lengths: Vec<usize> = chunks.iter().map(|chunk| chunk.chars().count()).collect();
        assert_eq!(lengths, [2999, 2999 + 2 + 5]);
        assert!(super::chunks("\n\n --- \n").is_empty());
    }

    #[test]
    fn a_paragraph_that_is_too_long_is_cut_between_words() {
        let chunks = chunks(&"brake ".repeat(2000));
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk.chars().count() <= CHUNK_MAX)
        );
        let words: usize = chunks
            .iter()
            .map(|chunk| chunk.split_whitespace().count())
            .sum();
        assert_eq!(words, 2000);
        assert_eq!(super::chunks(&"é".repeat(CHUNK_MAX + 1)).len(), 2);
    }

    #[test]
    fn confidence_is_the_formula_of_the_domain() {
        let query = terms("Brake leak brake");
        assert_eq!(query.len(), 2);
        assert!((confidence(&query, "a brake leak", -2.0, -2.0) - 0.95).abs() < 1e-9);
        assert!((confidence(&query, "a brake", -1.0, -2.0) - 0.24).abs() < 1e-9);
    }
}
