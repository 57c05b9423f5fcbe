"""The first catalog."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "app_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("migration", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_app_version")),
    )
    op.create_index(op.f("ix_app_version_created"), "app_version", ["created"], unique=False)
    op.create_table(
        "artifact",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_artifact")),
    )
    op.create_index(op.f("ix_artifact_created"), "artifact", ["created"], unique=False)
    op.create_table(
        "fact_set",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fact_set")),
        sa.UniqueConstraint("name", name=op.f("uq_fact_set_name")),
    )
    op.create_index(op.f("ix_fact_set_created"), "fact_set", ["created"], unique=False)
    op.create_table(
        "job",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("done", sa.Float(), nullable=False),
        sa.Column("total", sa.Float(), nullable=True),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("rate", sa.Float(), nullable=True),
        sa.Column("activity", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("memory", sa.Integer(), nullable=True),
        sa.Column("seconds_left", sa.Float(), nullable=True),
        sa.Column("nodes", sa.JSON(), nullable=False),
        sa.Column("heartbeat", sa.DateTime(), nullable=True),
        sa.Column("stop_request", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("error_kind", sa.String(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("checkpoint", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("started", sa.DateTime(), nullable=True),
        sa.Column("ended", sa.DateTime(), nullable=True),
        sa.CheckConstraint("error_kind IN ('input', 'failure')", name=op.f("ck_job_error_kind")),
        sa.CheckConstraint(
            "state IN ('queued', 'waiting', 'running', 'done', 'failed', 'cancelled', 'paused', 'interrupted')",
            name=op.f("ck_job_state"),
        ),
        sa.CheckConstraint("stop_request IN ('cancel', 'pause')", name=op.f("ck_job_stop_request")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_job_created"), "job", ["created"], unique=False)
    op.create_index(op.f("ix_job_kind"), "job", ["kind"], unique=False)
    op.create_index(op.f("ix_job_state"), "job", ["state"], unique=False)
    op.create_table(
        "model",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("source_kind", sa.String(), nullable=False),
        sa.Column("commit", sa.String(), nullable=True),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("architecture", sa.String(), nullable=False),
        sa.Column("dtype", sa.String(), nullable=False),
        sa.Column("parameters", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("anatomy", sa.JSON(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("tensors", sa.JSON(), nullable=False),
        sa.Column("trust_remote_code", sa.Boolean(), nullable=False),
        sa.Column("head", sa.String(), nullable=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.CheckConstraint(
            "source_kind IN ('hub', 'folder', 'gguf', 'starter')", name=op.f("ck_model_source_kind")
        ),
        sa.ForeignKeyConstraint(["head"], ["revision.id"], name="fk_model_head_revision", use_alter=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model")),
        sa.UniqueConstraint("name", name=op.f("uq_model_name")),
    )
    op.create_index(op.f("ix_model_created"), "model", ["created"], unique=False)
    op.create_table(
        "covariance",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("layer", sa.Integer(), nullable=False),
        sa.Column("module", sa.String(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("tokenizer", sa.String(), nullable=True),
        sa.Column("texts", sa.String(), nullable=False),
        sa.Column("texts_revision", sa.String(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=True),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("documents", sa.Integer(), nullable=True),
        sa.Column("max_length", sa.Integer(), nullable=True),
        sa.Column("dtype", sa.String(), nullable=False),
        sa.Column("curve", sa.JSON(), nullable=False),
        sa.Column("origin", sa.JSON(), nullable=False),
        sa.Column("artifact", sa.String(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact"], ["artifact.sha256"], name=op.f("fk_covariance_artifact_artifact")
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name=op.f("fk_covariance_model_id_model"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_covariance")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_covariance_artifact"), "covariance", ["artifact"], unique=False)
    op.create_index(op.f("ix_covariance_created"), "covariance", ["created"], unique=False)
    op.create_index(op.f("ix_covariance_model_id"), "covariance", ["model_id"], unique=False)
    op.create_index(op.f("ix_covariance_model_id_layer"), "covariance", ["model_id", "layer"], unique=False)
    op.create_table(
        "fact",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fact_set_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("prompt", sa.String(), nullable=False),
        sa.Column("target_true", sa.String(), nullable=True),
        sa.Column("target_new", sa.String(), nullable=True),
        sa.Column("train_paraphrases", sa.JSON(), nullable=False),
        sa.Column("eval_paraphrases", sa.JSON(), nullable=False),
        sa.Column("neighbors", sa.JSON(), nullable=False),
        sa.Column("negations", sa.JSON(), nullable=False),
        sa.Column("portability", sa.JSON(), nullable=False),
        sa.Column("generation_prompts", sa.JSON(), nullable=False),
        sa.Column("references", sa.JSON(), nullable=False),
        sa.Column("origin", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["fact_set_id"], ["fact_set.id"], name=op.f("fk_fact_fact_set_id_fact_set"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fact")),
        sa.UniqueConstraint("fact_set_id", "position", name=op.f("uq_fact_fact_set_id_position")),
    )
    op.create_index(op.f("ix_fact_fact_set_id"), "fact", ["fact_set_id"], unique=False)
    op.create_table(
        "revision",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("parent", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("reverts", sa.String(), nullable=True),
        sa.Column("method", sa.String(), nullable=True),
        sa.Column("hparams", sa.JSON(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=True),
        sa.Column("contexts", sa.JSON(), nullable=False),
        sa.Column("requests", sa.JSON(), nullable=False),
        sa.Column("covariances", sa.JSON(), nullable=False),
        sa.Column("delta", sa.String(), nullable=True),
        sa.Column("statistics", sa.JSON(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.CheckConstraint("(kind = 'base') = (parent IS NULL)", name=op.f("ck_revision_parent")),
        sa.CheckConstraint("(kind = 'revert') = (reverts IS NOT NULL)", name=op.f("ck_revision_reverts")),
        sa.CheckConstraint("kind IN ('base', 'edit', 'revert')", name=op.f("ck_revision_kind")),
        sa.ForeignKeyConstraint(["delta"], ["artifact.sha256"], name=op.f("fk_revision_delta_artifact")),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name=op.f("fk_revision_model_id_model"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["parent"], ["revision.id"], name=op.f("fk_revision_parent_revision")),
        sa.ForeignKeyConstraint(["reverts"], ["revision.id"], name=op.f("fk_revision_reverts_revision")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revision")),
    )
    op.create_index(op.f("ix_revision_created"), "revision", ["created"], unique=False)
    op.create_index(op.f("ix_revision_delta"), "revision", ["delta"], unique=False)
    op.create_index(op.f("ix_revision_model_id"), "revision", ["model_id"], unique=False)
    op.create_index(op.f("ix_revision_parent"), "revision", ["parent"], unique=False)
    op.create_index(op.f("ix_revision_reverts"), "revision", ["reverts"], unique=False)
    op.create_table(
        "evaluation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("fact_set_id", sa.Integer(), nullable=True),
        sa.Column("protocol", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("cases", sa.JSON(), nullable=False),
        sa.Column("retention", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["fact_set_id"],
            ["fact_set.id"],
            name=op.f("fk_evaluation_fact_set_id_fact_set"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name=op.f("fk_evaluation_model_id_model"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["revision"], ["revision.id"], name=op.f("fk_evaluation_revision_revision")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_evaluation_created"), "evaluation", ["created"], unique=False)
    op.create_index(op.f("ix_evaluation_fact_set_id"), "evaluation", ["fact_set_id"], unique=False)
    op.create_index(op.f("ix_evaluation_model_id"), "evaluation", ["model_id"], unique=False)
    op.create_index(op.f("ix_evaluation_revision"), "evaluation", ["revision"], unique=False)
    op.create_table(
        "head_move",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("from_revision", sa.String(), nullable=True),
        sa.Column("to_revision", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.CheckConstraint(
            "reason IN ('add', 'edit', 'rollback', 'revert', 'import', 'undo', 'redo')",
            name=op.f("ck_head_move_reason"),
        ),
        sa.ForeignKeyConstraint(
            ["from_revision"], ["revision.id"], name=op.f("fk_head_move_from_revision_revision")
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name=op.f("fk_head_move_model_id_model"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["to_revision"], ["revision.id"], name=op.f("fk_head_move_to_revision_revision")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_head_move")),
    )
    op.create_index(op.f("ix_head_move_created"), "head_move", ["created"], unique=False)
    op.create_index(op.f("ix_head_move_from_revision"), "head_move", ["from_revision"], unique=False)
    op.create_index(op.f("ix_head_move_model_id"), "head_move", ["model_id"], unique=False)
    op.create_index(op.f("ix_head_move_to_revision"), "head_move", ["to_revision"], unique=False)
    op.create_table(
        "passage",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("revisions", sa.JSON(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("questions", sa.JSON(), nullable=False),
        sa.Column("problems", sa.JSON(), nullable=False),
        sa.Column("stages", sa.JSON(), nullable=False),
        sa.Column("proof", sa.JSON(), nullable=False),
        sa.Column("answers", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name=op.f("fk_passage_model_id_model"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["revision"], ["revision.id"], name=op.f("fk_passage_revision_revision")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_passage")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_passage_created"), "passage", ["created"], unique=False)
    op.create_index(op.f("ix_passage_model_id"), "passage", ["model_id"], unique=False)
    op.create_index(op.f("ix_passage_revision"), "passage", ["revision"], unique=False)
    op.create_table(
        "publication",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("repo", sa.String(), nullable=False),
        sa.Column("commit", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("tag", sa.String(), nullable=True),
        sa.Column("unpublished", sa.DateTime(), nullable=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.CheckConstraint("kind IN ('checkpoint', 'adapter')", name=op.f("ck_publication_kind")),
        sa.ForeignKeyConstraint(
            ["revision"], ["revision.id"], name=op.f("fk_publication_revision_revision"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publication")),
    )
    op.create_index(op.f("ix_publication_created"), "publication", ["created"], unique=False)
    op.create_index(op.f("ix_publication_revision"), "publication", ["revision"], unique=False)
    op.create_table(
        "trace",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("fact_set_id", sa.Integer(), nullable=True),
        sa.Column("kinds", sa.JSON(), nullable=False),
        sa.Column("noise", sa.String(), nullable=False),
        sa.Column("noise_level", sa.Float(), nullable=True),
        sa.Column("replace", sa.Boolean(), nullable=False),
        sa.Column("swap", sa.String(), nullable=True),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("window", sa.Integer(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.String(), nullable=False),
        sa.Column("protocol", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.CheckConstraint("tokens IN ('all', 'subject-last')", name=op.f("ck_trace_tokens")),
        sa.ForeignKeyConstraint(
            ["fact_set_id"], ["fact_set.id"], name=op.f("fk_trace_fact_set_id_fact_set"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name=op.f("fk_trace_model_id_model"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["revision"], ["revision.id"], name=op.f("fk_trace_revision_revision")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trace")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_trace_created"), "trace", ["created"], unique=False)
    op.create_index(op.f("ix_trace_fact_set_id"), "trace", ["fact_set_id"], unique=False)
    op.create_index(op.f("ix_trace_model_id"), "trace", ["model_id"], unique=False)
    op.create_index(op.f("ix_trace_revision"), "trace", ["revision"], unique=False)
    op.create_table(
        "average_effect",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("trace_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("layer", sa.Integer(), nullable=False),
        sa.Column("mean", sa.Float(), nullable=False),
        sa.Column("low", sa.Float(), nullable=False),
        sa.Column("high", sa.Float(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["trace_id"], ["trace.id"], name=op.f("fk_average_effect_trace_id_trace"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_average_effect")),
        sa.UniqueConstraint(
            "trace_id", "kind", "role", "layer", name=op.f("uq_average_effect_trace_id_kind_role_layer")
        ),
    )
    op.create_index(op.f("ix_average_effect_trace_id"), "average_effect", ["trace_id"], unique=False)
    op.create_table(
        "trace_result",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("trace_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("tokens", sa.JSON(), nullable=False),
        sa.Column("token_ids", sa.JSON(), nullable=False),
        sa.Column("subject_begin", sa.Integer(), nullable=False),
        sa.Column("subject_end", sa.Integer(), nullable=False),
        sa.Column("answer", sa.String(), nullable=False),
        sa.Column("expected", sa.String(), nullable=True),
        sa.Column("high", sa.Float(), nullable=True),
        sa.Column("low", sa.Float(), nullable=True),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("estimate", sa.JSON(), nullable=False),
        sa.Column("is_complete", sa.Boolean(), nullable=False),
        sa.Column("skip_reason", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["trace_id"], ["trace.id"], name=op.f("fk_trace_result_trace_id_trace"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trace_result")),
        sa.UniqueConstraint("trace_id", "position", name=op.f("uq_trace_result_trace_id_position")),
    )
    op.create_index(op.f("ix_trace_result_trace_id"), "trace_result", ["trace_id"], unique=False)
    op.create_table(
        "sweep",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("fact_set_id", sa.Integer(), nullable=True),
        sa.Column("trace_id", sa.Integer(), nullable=True),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("hparams", sa.JSON(), nullable=False),
        sa.Column("requests", sa.JSON(), nullable=False),
        sa.Column("covariances", sa.JSON(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("trial_count", sa.Integer(), nullable=False),
        sa.Column("protocol", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["fact_set_id"], ["fact_set.id"], name=op.f("fk_sweep_fact_set_id_fact_set"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name=op.f("fk_sweep_model_id_model"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["revision"], ["revision.id"], name=op.f("fk_sweep_revision_revision")),
        sa.ForeignKeyConstraint(
            ["trace_id"], ["trace.id"], name=op.f("fk_sweep_trace_id_trace"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweep")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_sweep_created"), "sweep", ["created"], unique=False)
    op.create_index(op.f("ix_sweep_fact_set_id"), "sweep", ["fact_set_id"], unique=False)
    op.create_index(op.f("ix_sweep_model_id"), "sweep", ["model_id"], unique=False)
    op.create_index(op.f("ix_sweep_revision"), "sweep", ["revision"], unique=False)
    op.create_index(op.f("ix_sweep_trace_id"), "sweep", ["trace_id"], unique=False)
    op.create_table(
        "sweep_trial",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sweep_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("layers", sa.JSON(), nullable=False),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.Column("score", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["sweep_id"], ["sweep.id"], name=op.f("fk_sweep_trial_sweep_id_sweep"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweep_trial")),
        sa.UniqueConstraint("sweep_id", "position", name=op.f("uq_sweep_trial_sweep_id_position")),
    )
    op.create_index(op.f("ix_sweep_trial_sweep_id"), "sweep_trial", ["sweep_id"], unique=False)


def downgrade() -> None:
    """Not supported: each migration makes a backup first."""
    raise NotImplementedError
