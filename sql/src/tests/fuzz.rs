//! Broken scripts: planning answers every text with a graph or an error, never with a panic.

use super::{golden, plan_after};
use proptest::prelude::*;

fn scripts() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for file in [
        "plans.txt",
        "windows.txt",
        "tables.txt",
        "errors.txt",
        "refusals.txt",
    ] {
        let (prelude, cases) = golden::read(&golden::folder().join(file));
        all.extend(cases.into_iter().map(|(_, sql, _)| (prelude.clone(), sql)));
    }
    all
}

/// Words and signs, blanks kept with what they follow.
fn pieces(sql: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut last_word = false;
    for c in sql.chars() {
        let word = c.is_alphanumeric() || c == '_';
        match out.last_mut() {
            Some(piece) if (word && last_word) || c.is_whitespace() => piece.push(c),
            _ => out.push(c.to_string()),
        }
        last_word = word;
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mangled_scripts_never_panic(
        script in 0usize..1000,
        edits in prop::collection::vec((0usize..3, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let all = scripts();
        let (prelude, sql) = &all[script % all.len()];
        let mut words = pieces(sql);
        for (edit, a, b) in edits {
            if words.is_empty() {
                break;
            }
            let (a, b) = (a.index(words.len()), b.index(words.len()));
            match edit {
                0 => { words.remove(a); }
                1 => words.swap(a, b),
                _ => { let word = words[a].clone(); words.insert(b, word); }
            }
        }
        if let Err(error) = plan_after(prelude, &words.concat()) {
            prop_assert!(!error.message.is_empty());
            prop_assert!(!error.message.contains("Internal"), "{error}\n{}", words.concat());
        }
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,80}") {
        let _ = plan_after("", &text);
    }
}
