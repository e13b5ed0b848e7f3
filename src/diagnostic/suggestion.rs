//! "did you mean": the nearest known word to one that is not known.

/// The candidate nearest to `word`, if one is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Short words are near to everything: allow one edit in three characters, and no more than three.
    let limit = (word.chars().count() / 3).min(3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// A help text that names the nearest candidate, or else all of them if they are few.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(candidate) = nearest(word, candidates.iter().copied()) {
        return Some(format!("did you mean `{candidate}`?"));
    }
    match candidates.as_slice() {
        [] => None,
        [only] => Some(format!("the only choice is `{only}`")),
        few if few.len() <= 24 => {
            let words: Vec<String> = few.iter().map(|word| format!("`{word}`")).collect();
            Some(format!("choose from {}", words.join(", ")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        assert_eq!(nearest("raw_order", ["raw_orders", "clean"]), Some("raw_orders"));
        assert_eq!(nearest("form", ["from", "format"]), Some("from"));
        assert_eq!(nearest("publish", ["clean", "score"]), None);
        assert_eq!(nearest("a", ["b"]), None);
    }
}
