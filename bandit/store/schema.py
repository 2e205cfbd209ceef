"""Tables, views and migrations of the one database file.

An engineer who opens ``data/log.db`` with sqlite-utils or Datasette should understand it: the views
``decisions``, ``slots``, ``feedback``, ``outcomes`` and ``models`` are for them, and a schema change must keep
them working.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

migrations = Migrations("feed-bandit")


@migrations()
def m001_log(db: Database) -> None:
    """The log itself: append-only, in one order; everything else here follows from it."""
    # AUTOINCREMENT: a position is never given twice, even if the newest rows were erased.
    db.execute(
        """CREATE TABLE log (
            pos INTEGER PRIMARY KEY AUTOINCREMENT,
            ts REAL NOT NULL,
            kind TEXT NOT NULL,
            event_id TEXT,
            feedback_id TEXT,
            body_hash BLOB,
            payload TEXT NOT NULL,
            candidates BLOB
        )"""
    )
    db.execute("CREATE UNIQUE INDEX log_decision ON log(event_id) WHERE kind = 'decision'")
    db.execute("CREATE UNIQUE INDEX log_feedback_id ON log(feedback_id) WHERE feedback_id IS NOT NULL")
    db.execute("CREATE INDEX log_follow_up ON log(event_id) WHERE kind IN ('activation', 'feedback')")
    db.execute("CREATE INDEX log_control ON log(pos) WHERE kind IN ('items', 'withdraw', 'config')")
    db.execute("CREATE INDEX log_rare ON log(kind, pos) WHERE kind IN ('config', 'publish', 'base')")


@migrations()
def m002_items(db: Database) -> None:
    """Item versions, each distinct (id, features) stored once, and which of them is current."""
    db.execute(
        """CREATE TABLE item_versions (
            version INTEGER PRIMARY KEY,
            digest BLOB NOT NULL UNIQUE,
            id TEXT NOT NULL,
            features TEXT NOT NULL
        )"""
    )
    db.execute(
        """CREATE TABLE items (
            id TEXT PRIMARY KEY,
            version INTEGER NOT NULL REFERENCES item_versions(version),
            withdrawn INTEGER NOT NULL,
            updated_at REAL NOT NULL
        ) WITHOUT ROWID"""
    )


@migrations()
def m003_derived(db: Database) -> None:
    """What the trainer worked out from the log; all of it can be rebuilt."""
    db.execute(
        """CREATE TABLE outcomes (
            decision_pos INTEGER NOT NULL,
            slot INTEGER NOT NULL,
            event_id TEXT NOT NULL,
            id TEXT NOT NULL,
            status TEXT NOT NULL,
            evidence TEXT,
            reward REAL,
            weight REAL,
            closed_pos INTEGER NOT NULL,
            closed_at REAL NOT NULL,
            PRIMARY KEY (decision_pos, slot)
        ) WITHOUT ROWID"""
    )
    db.execute(
        """CREATE TABLE models (
            published_pos INTEGER PRIMARY KEY,
            digest TEXT NOT NULL,
            weights_digest TEXT NOT NULL,
            position INTEGER NOT NULL,
            reads_from INTEGER NOT NULL,
            learned INTEGER NOT NULL,
            published_at REAL NOT NULL
        )"""
    )
    db.execute("CREATE INDEX models_position ON models(position)")
    db.execute(
        """CREATE TABLE trainer (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            position INTEGER NOT NULL,
            at REAL NOT NULL,
            open_decisions INTEGER NOT NULL,
            learned INTEGER NOT NULL,
            counts TEXT NOT NULL,
            problem TEXT
        )"""
    )


@migrations()
def m004_views(db: Database) -> None:
    """The log for human eyes."""
    iso = "strftime('%Y-%m-%dT%H:%M:%fZ', {}, 'unixepoch')"
    db.create_view(
        "decisions",
        f"""SELECT pos, {iso.format("ts")} AS at, event_id,
            json_extract(payload, '$.user') AS user,
            length(candidates) / 4 AS n_candidates,
            json_extract(payload, '$.scored') AS scored,
            json_array_length(payload, '$.slots') AS n_slots,
            json_extract(payload, '$.model') AS model,
            json_extract(payload, '$.config') AS config,
            json_extract(payload, '$.fallback') AS fallback,
            coalesce(json_extract(payload, '$.deferred'), 0) AS deferred,
            json_extract(payload, '$.shared') AS shared
        FROM log WHERE kind = 'decision'""",
    )
    db.create_view(
        "slots",
        """SELECT log.pos AS decision_pos, log.event_id, slot.key AS slot,
            json_extract(slot.value, '$[0]') AS id,
            json_extract(slot.value, '$[1]') AS item_version,
            json_extract(slot.value, '$[2]') AS propensity,
            json_extract(slot.value, '$[3]') AS score,
            json_extract(slot.value, '$[4]') AS exploratory,
            outcomes.status, outcomes.evidence, outcomes.reward
        FROM log, json_each(log.payload, '$.slots') AS slot
        LEFT JOIN outcomes ON outcomes.decision_pos = log.pos AND outcomes.slot = slot.key
        WHERE log.kind = 'decision'""",
    )
    db.create_view(
        "feedback",
        f"""SELECT log.pos, {iso.format("log.ts")} AS at, log.event_id, log.feedback_id,
            json_extract(item.value, '$.id') AS id,
            json_extract(item.value, '$.signals') AS signals,
            json_extract(item.value, '$.seen') AS seen,
            json_extract(item.value, '$.reward') AS reward,
            json_extract(item.value, '$.final') AS final
        FROM log, json_each(log.payload, '$.items') AS item
        WHERE log.kind = 'feedback'""",
    )


@migrations()
def m005_guard(db: Database) -> None:
    """Held snapshots, rollbacks and releases: records, and the rows that follow them."""
    # What every request asks for changed: rollbacks and releases hold from the next one on.
    db.execute("DROP INDEX log_control")
    db.execute(
        "CREATE INDEX log_control ON log(pos) WHERE kind IN ('items', 'withdraw', 'config', 'rollback', 'release')"
    )
    db.execute("CREATE INDEX log_serving ON log(pos) WHERE kind IN ('hold', 'rollback', 'release')")
    db.execute("CREATE INDEX models_digest ON models(digest)")
    db.execute(
        """CREATE TABLE holds (
            hold_pos INTEGER PRIMARY KEY,
            digest TEXT,
            position INTEGER NOT NULL,
            after INTEGER NOT NULL,
            failed TEXT NOT NULL,
            reason TEXT NOT NULL,
            lessons INTEGER NOT NULL,
            held_at REAL NOT NULL
        )"""
    )
    db.execute(
        """CREATE TABLE serving (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            pinned TEXT,
            by TEXT,
            reason TEXT,
            at REAL,
            since_pos INTEGER NOT NULL,
            release INTEGER NOT NULL,
            champion TEXT,
            champion_position INTEGER NOT NULL,
            release_pos INTEGER NOT NULL
        )"""
    )


@migrations()
def m006_statistics(db: Database) -> None:
    """Whose record it is; and statistics, as the trainer folded them from the log."""
    db.execute("ALTER TABLE log ADD COLUMN user TEXT")
    db.execute("CREATE INDEX log_user ON log(user, pos) WHERE user IS NOT NULL")
    db.execute(
        """CREATE TABLE epochs (
            position INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            digest TEXT NOT NULL
        )"""
    )
    db.execute(
        """CREATE TABLE tallies (
            key INTEGER PRIMARY KEY,
            epoch INTEGER NOT NULL,
            shown REAL NOT NULL,
            seen REAL NOT NULL,
            reward REAL NOT NULL,
            watched REAL NOT NULL,
            completion REAL NOT NULL,
            negative REAL NOT NULL,
            first_at REAL NOT NULL,
            offered REAL NOT NULL
        )"""
    )
    db.execute("CREATE INDEX tallies_epoch ON tallies(epoch)")
    db.execute(
        """CREATE TABLE viewers (
            user TEXT PRIMARY KEY,
            position INTEGER NOT NULL,
            body BLOB NOT NULL
        ) WITHOUT ROWID"""
    )
    db.execute(
        """CREATE TABLE attribute_names (
            key INTEGER PRIMARY KEY,
            attribute TEXT NOT NULL,
            value TEXT NOT NULL
        )"""
    )


@migrations()
def m007_comparison(db: Database) -> None:
    """What the slow guard found at its last look."""
    db.execute(
        """CREATE TABLE comparison (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            release INTEGER NOT NULL,
            champion TEXT NOT NULL,
            feeds INTEGER NOT NULL,
            estimate REAL,
            upper REAL,
            alpha REAL,
            at REAL NOT NULL
        )"""
    )


@migrations()
def m008_arms(db: Database) -> None:
    """Decisions by the arm of an experiment: counted without reading them. Follows from the log."""
    db.execute(
        """CREATE TABLE arm_decisions (
            experiment TEXT NOT NULL,
            arm TEXT NOT NULL,
            viewer TEXT NOT NULL,
            decision_pos INTEGER NOT NULL,
            event_id TEXT NOT NULL,
            ts REAL NOT NULL,
            deferred INTEGER NOT NULL,
            PRIMARY KEY (experiment, arm, viewer, decision_pos)
        ) WITHOUT ROWID"""
    )


@migrations()
def m009_erasures(db: Database) -> None:
    """Erasures of viewers, and how far old records were deleted; whose old decisions are, which records did not say."""
    db.execute(
        """CREATE TABLE erasures (
            erase_pos INTEGER PRIMARY KEY,
            who TEXT NOT NULL,
            names TEXT NOT NULL,
            state TEXT NOT NULL,
            base_pos INTEGER,
            decisions INTEGER NOT NULL DEFAULT 0,
            feedback INTEGER NOT NULL DEFAULT 0,
            activations INTEGER NOT NULL DEFAULT 0,
            sign_ups INTEGER NOT NULL DEFAULT 0,
            outcomes INTEGER NOT NULL DEFAULT 0,
            profile INTEGER NOT NULL DEFAULT 0,
            asked_at REAL NOT NULL
        )"""
    )
    db.execute("CREATE TABLE retention (one INTEGER PRIMARY KEY CHECK (one = 1), cut INTEGER NOT NULL)")
    db.execute("INSERT INTO retention (one, cut) VALUES (1, 1)")
    db.execute("CREATE INDEX erasures_who ON erasures(who, erase_pos)")
    db.execute("CREATE INDEX arm_decisions_pos ON arm_decisions(decision_pos)")
    db.execute(
        "UPDATE log SET user = json_extract(payload, '$.user')"
        " WHERE kind = 'decision' AND user IS NULL AND json_extract(payload, '$.user') IS NOT NULL"
    )


@migrations()
def m010_keys(db: Database) -> None:
    """API keys: hashes of them, never the keys."""
    db.execute(
        """CREATE TABLE keys (
            id TEXT PRIMARY KEY,
            app TEXT NOT NULL,
            scopes TEXT NOT NULL,
            digest BLOB NOT NULL,
            created_at REAL NOT NULL,
            expires_at REAL,
            revoked_at REAL,
            rate REAL
        ) WITHOUT ROWID"""
    )


@migrations()
def m011_loop(db: Database) -> None:
    """How the loop does, by minute, hour and day: counts without any viewer's name. Follows from the log."""
    db.execute(
        """CREATE TABLE loop_stretches (
            span_s INTEGER NOT NULL,
            starts_at INTEGER NOT NULL,
            counts TEXT NOT NULL,
            gauges TEXT NOT NULL,
            groups BLOB NOT NULL,
            slots BLOB NOT NULL,
            PRIMARY KEY (span_s, starts_at)
        ) WITHOUT ROWID"""
    )
    db.execute(
        """CREATE TABLE loop_arms (
            experiment TEXT NOT NULL,
            arm TEXT NOT NULL,
            groups BLOB NOT NULL,
            PRIMARY KEY (experiment, arm)
        ) WITHOUT ROWID"""
    )
    db.execute("CREATE TABLE loop_state (one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL)")


@migrations()
def m013_arm_models(db: Database) -> None:
    """Models of the arms that learn apart, beside the champion's of the same publish in ``models``."""
    db.execute(
        """CREATE TABLE arm_models (
            published_pos INTEGER NOT NULL,
            experiment TEXT NOT NULL,
            arm TEXT NOT NULL,
            digest TEXT NOT NULL,
            weights_digest TEXT NOT NULL,
            learned INTEGER NOT NULL,
            PRIMARY KEY (published_pos, arm)
        ) WITHOUT ROWID"""
    )
    db.execute("CREATE INDEX arm_models_digest ON arm_models(digest)")
    db.execute("ALTER TABLE holds ADD COLUMN arm TEXT")


@migrations()
def m014_apps(db: Database) -> None:
    """The views again, with the app of each event apart from its id; see `bandit.access.apps`."""
    at = "strftime('%Y-%m-%dT%H:%M:%fZ', ts, 'unixepoch')"
    app = "substr({0}, 1, max(instr({0}, char(31)) - 1, 0))"
    own = "substr({0}, instr({0}, char(31)) + 1)"
    for name in ("decisions", "slots", "feedback"):
        db.execute(f"DROP VIEW {name}")
    db.create_view(
        "decisions",
        f"""SELECT pos, {at} AS at, {app.format("event_id")} AS app, {own.format("event_id")} AS event_id,
            json_extract(payload, '$.user') AS user,
            length(candidates) / 4 AS n_candidates,
            json_extract(payload, '$.scored') AS scored,
            json_array_length(payload, '$.slots') AS n_slots,
            json_extract(payload, '$.model') AS model,
            json_extract(payload, '$.config') AS config,
            json_extract(payload, '$.fallback') AS fallback,
            coalesce(json_extract(payload, '$.deferred'), 0) AS deferred,
            json_extract(payload, '$.shared') AS shared
        FROM log WHERE kind = 'decision'""",
    )
    db.create_view(
        "slots",
        f"""SELECT log.pos AS decision_pos, {app.format("log.event_id")} AS app,
            {own.format("log.event_id")} AS event_id, slot.key AS slot,
            json_extract(slot.value, '$[0]') AS id,
            json_extract(slot.value, '$[1]') AS item_version,
            json_extract(slot.value, '$[2]') AS propensity,
            json_extract(slot.value, '$[3]') AS score,
            json_extract(slot.value, '$[4]') AS exploratory,
            outcomes.status, outcomes.evidence, outcomes.reward
        FROM log, json_each(log.payload, '$.slots') AS slot
        LEFT JOIN outcomes ON outcomes.decision_pos = log.pos AND outcomes.slot = slot.key
        WHERE log.kind = 'decision'""",
    )
    db.create_view(
        "feedback",
        f"""SELECT log.pos, {at} AS at, {app.format("log.event_id")} AS app,
            {own.format("log.event_id")} AS event_id, {own.format("log.feedback_id")} AS feedback_id,
            json_extract(item.value, '$.id') AS id,
            json_extract(item.value, '$.signals') AS signals,
            json_extract(item.value, '$.seen') AS seen,
            json_extract(item.value, '$.reward') AS reward,
            json_extract(item.value, '$.final') AS final
        FROM log, json_each(log.payload, '$.items') AS item
        WHERE log.kind = 'feedback'""",
    )


@migrations()
def m015_arm_tallies(db: Database) -> None:
    """Tallies of arms that learn apart, as of the newest epoch; of ended ones until they are deleted."""
    db.execute(
        """CREATE TABLE arm_tallies (
            label TEXT NOT NULL,
            key INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            shown REAL NOT NULL,
            seen REAL NOT NULL,
            reward REAL NOT NULL,
            watched REAL NOT NULL,
            completion REAL NOT NULL,
            negative REAL NOT NULL,
            first_at REAL NOT NULL,
            offered REAL NOT NULL,
            PRIMARY KEY (label, key)
        ) WITHOUT ROWID"""
    )
    db.execute("CREATE INDEX arm_tallies_epoch ON arm_tallies(label, epoch)")


@migrations()
def m016_stayed(db: Database) -> None:
    """Who stayed with what was shown, in tallies; nothing was counted before."""
    for table in ("tallies", "arm_tallies"):
        for column in ("timed", "stayed"):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} REAL NOT NULL DEFAULT 0")


@migrations()
def m017_unsettled_tallies(db: Database) -> None:
    """What epochs changed, packed; see `bandit.store.tallies`."""
    db.execute("CREATE TABLE unsettled_tallies (id INTEGER PRIMARY KEY, position INTEGER NOT NULL, body BLOB NOT NULL)")
