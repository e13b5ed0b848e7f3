//! The spanned tree against another reader of YAML, on random sound documents.

use millpond::diagnostic::SourceText;
use millpond::spec::yaml;
use proptest::prelude::*;

/// A YAML value in flow style, which can be nested anywhere.
fn flow() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        "[a-z][a-z_0-9]{0,8}",
        "-?[1-9][0-9]{0,8}",
        "[0-9]{1,3}\\.[0-9]{1,3}(e[+-]?[0-9])?",
        "0x[0-9a-f]{1,4}",
        Just("true".to_owned()),
        Just("False".to_owned()),
        Just("yes".to_owned()),
        Just("~".to_owned()),
        Just("null".to_owned()),
        Just("007".to_owned()),
        Just("1.2.3".to_owned()),
        "'[a-zé #:,]{0,12}'",
        "\"[a-z ü\\{\\}]{0,12}\\\\n\\\\u00e9\"",
        Just("*anchor".to_owned()),
    ];
    scalar.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::btree_map("[a-z]{1,5}", inner, 0..4).prop_map(|entries| {
                let entries: Vec<String> = entries.into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("{{ {} }}", entries.join(", "))
            }),
        ]
    })
}

/// A document in block style with an anchor, a merge, comments and block scalars.
fn document() -> impl Strategy<Value = String> {
    let entries = prop::collection::btree_map("[a-z]{1,6}", flow(), 1..6);
    let lines = prop::collection::vec("[a-zé#:][a-zé#: ]{0,10}[a-z]", 1..4);
    (entries, lines, flow(), any::<bool>()).prop_map(|(entries, lines, anchored, bom)| {
        let mut text = if bom { "\u{feff}".to_owned() } else { String::new() };
        text += &format!("x-anchor: &anchor {{ base: 1, other: [{}] }}\n", anchored.replace("*anchor", "none"));
        for (key, value) in &entries {
            text += &format!("{key}: # note\n  {value}\n");
        }
        let block: String = lines.iter().map(|line| format!("    {line}\n")).collect();
        text += &format!("literal: |\n{block}folded: >-\n{block}list:\n- 1\n- deep:\n    - x\n");
        text += "merged:\n  <<: *anchor\n  base: 2\nseveral:\n  <<: [*anchor, { extra: 1, base: 3 }]\n";
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_tree_has_the_same_values_as_serde_yaml(text in document()) {
        let source = SourceText::new("t.yaml", "/t.yaml", &text);
        let (tree, problems) = yaml::parse(&source);
        prop_assert!(problems.is_empty(), "{problems:?}\n{text}");
        let mut other: serde_yaml::Value = serde_yaml::from_str(source.text()).expect("sound");
        other.apply_merge().expect("sound");
        let other = serde_json::to_value(&other).expect("has a counterpart in JSON");
        prop_assert_eq!(tree.expect("no problems").to_json(), other, "{}", text);
    }

    /// Every scalar's place in the file holds the scalar.
    #[test]
    fn places_hold_what_they_are_places_of(text in document()) {
        let source = SourceText::new("t.yaml", "/t.yaml", &text);
        let tree = yaml::parse(&source).0.expect("sound");
        let mut checked = 0;
        tree.walk(&mut |_, node| {
            let written = source.slice(node.span);
            if let millpond::spec::tree::Value::Number(number) = &node.value && number.is_u64() && !written.starts_with("0x") {
                assert_eq!(written, number.to_string(), "{text}");
                checked += 1;
            }
            for entry in node.entries() {
                assert_eq!(source.slice(entry.key.span), entry.key.name, "{text}");
                checked += 1;
            }
        });
        prop_assert!(checked > 0);
    }

    /// Whatever the bytes, reading ends without a panic.
    #[test]
    fn any_text_can_be_read(text in "[a-z0-9&*<:{}\\[\\],\"' \\n|>!#%@`?-]{0,200}") {
        let source = SourceText::new("t.yaml", "/t.yaml", &text);
        let _ = yaml::parse(&source);
    }
}
