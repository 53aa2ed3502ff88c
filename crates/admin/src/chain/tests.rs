use proptest::prelude::*;
use tollgate_core::secret::MasterKey;

use super::*;

fn keyring() -> Keyring {
    let key = |version, byte| MasterKey::from_bytes(version, [byte; 32]);
    Keyring { peppers: vec![Pepper::new(key(1, 7)), Pepper::new(key(2, 8))], encryption: vec![key(1, 9)] }
}

fn organization(number: u8) -> OrganizationId {
    OrganizationId::from_bits(u128::from(number))
}

fn entry(organization: OrganizationId, seq: i64) -> Entry {
    let some = (seq % 2 == 0).then(|| format!("some {seq}"));
    Entry {
        id: format!("audit_log-{organization}-{seq}"),
        organization,
        event_type: ["role.created", "user.added"][usize::from(seq % 3 == 0)].to_owned(),
        effective_at: 1_000 + seq,
        project: some.clone(),
        project_name: some.clone(),
        actor: format!("{{\"key\":{seq}}}"),
        actor_id: some.clone(),
        actor_email: None,
        actor_key: some,
        resource_id: format!("role_{seq}"),
        payload: format!("{{\"id\":{seq}}}"),
    }
}

/// Two chains, whose pepper was changed on the way, and their heads.
fn chains(keyring: &Keyring, length: i64) -> (Vec<Stored>, Vec<Checkpoint>) {
    let (mut rows, mut heads) = (Vec::new(), Vec::new());
    for organization in [organization(1), organization(2)] {
        let mut before = BEGINNING;
        for seq in 1..=length {
            let pepper = &keyring.peppers[usize::from(seq > length / 2)];
            let entry = entry(organization, seq);
            before = entry.mac(pepper, seq, &before);
            rows.push(Stored { entry, seq: Some(seq), mac: before, pepper_version: pepper.key.version });
        }
        heads.push(Checkpoint { organization, seq: length, mac: before });
    }
    (rows, heads)
}

fn verified(mut rows: Vec<Stored>, heads: &[Checkpoint], since: &[Checkpoint]) -> Verified {
    let keyring = keyring();
    // As the database gives them: what has no number comes first.
    rows.sort_by_key(|row| (row.entry.organization, row.seq));
    let mut verifier = Verifier::new(&keyring, heads, since);
    for row in &rows {
        verifier.look(row);
    }
    verifier.finish()
}

#[test]
fn what_nobody_touched_is_intact() {
    let (rows, heads) = chains(&keyring(), 40);
    let whole = verified(rows, &heads, &heads);
    assert_eq!((whole.events, whole.organizations, whole.faults.len()), (80, 2, 0), "{whole}");
    assert_eq!(verified(Vec::new(), &[], &[]).faults, Vec::<String>::new());
}

#[test]
fn a_cut_end_shows_by_a_checkpoint() {
    let (rows, heads) = chains(&keyring(), 40);
    let cut: Vec<Stored> = rows.into_iter().filter(|row| row.seq.is_none_or(|seq| seq <= 30)).collect();
    let ends = |organization| {
        let last = cut.iter().rfind(|row| row.entry.organization == organization).unwrap();
        Checkpoint { organization, seq: 30, mac: last.mac }
    };
    let rewritten = [ends(organization(1)), ends(organization(2))];
    assert!(verified(cut.clone(), &rewritten, &[]).faults.is_empty(), "so well was it done");
    assert_eq!(verified(cut.clone(), &rewritten, &heads).faults.len(), 2);
    assert_eq!(verified(cut, &heads, &[]).faults.len(), 2, "and by what the database itself says of its end");
}

#[test]
fn a_checkpoint_survives_its_text_and_nothing_else_is_one() {
    let (_, heads) = chains(&keyring(), 3);
    let text = format!("{}\n\n{}\n", heads[0], heads[1]);
    assert_eq!(read_checkpoints(&text).unwrap(), heads);
    let logged = format!("2026-11-25T18:00:00Z  INFO tollgate: audit log checkpoint={}", heads[0]);
    assert_eq!(read_checkpoints(&logged).unwrap(), heads[..1]);
    for bad in ["", "x", "org-1:2:3", &format!("{}:1", heads[0]), &heads[0].to_string()[1..]] {
        assert_eq!(Checkpoint::parse(bad), None, "{bad}");
    }
    assert!(Checkpoint::parse(&heads[0].to_string().replace(":3:", ":-3:")).is_none());
}

/// One of the ways in which somebody with the database, and without the secrets file, can change it.
fn tamper(rows: &mut Vec<Stored>, at: usize, how: u8, other: usize) {
    let (at, other) = (at % rows.len(), other % rows.len());
    let before = rows.clone();
    match how {
        0 => drop(rows.remove(at)),
        1 => rows[at].entry.payload.push(' '),
        2 => rows[at].entry.actor_email = Some("eve@example.com".to_owned()),
        3 => rows[at].entry.effective_at -= 1,
        4 => rows[at].entry.event_type = "project.archived".to_owned(),
        5 => rows[at].entry.id.push('x'),
        6 => {
            // Two change places.
            let (one, two) = (rows[at].entry.clone(), rows[other].entry.clone());
            (rows[at].entry, rows[other].entry) = (two, one);
        }
        7 => {
            let (one, two) = (rows[at].seq, rows[other].seq);
            (rows[at].seq, rows[other].seq) = (two, one);
        }
        8 => rows[at].mac[0] ^= 1,
        9 => {
            // One more, made of another.
            let mut more = rows[at].clone();
            (more.seq, more.entry.id) = (None, "audit_log-more".to_owned());
            rows.push(more);
        }
        10 => rows[at].entry.project = None,
        11 => rows[at].entry.resource_id = String::new(),
        12 => rows[at].entry.organization = organization(3),
        13 => rows[at].pepper_version = 3 - rows[at].pepper_version,
        14 => rows[at].entry.actor_key = rows[other].entry.actor_key.clone().xor(Some("k".to_owned())),
        _ => rows[at].entry.actor = rows[other].entry.actor.replace('k', "K"),
    }
    if *rows == before {
        rows[at].entry.payload.push('.');
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn whatever_is_tampered_with_is_found(at: usize, how in 0u8..16, other: usize, again: Option<(usize, u8, usize)>) {
        let (rows, heads) = chains(&keyring(), 12);
        let mut changed = rows.clone();
        tamper(&mut changed, at, how, other);
        if let Some((at, how, other)) = again {
            tamper(&mut changed, at, how % 16, other);
        }
        // Twice the same may be as it was.
        prop_assume!(changed != rows);
        let found = verified(changed, &heads, &heads);
        prop_assert!(!found.faults.is_empty());
    }
}
