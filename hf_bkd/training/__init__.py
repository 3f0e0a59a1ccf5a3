"""The trainer that distills: a student learns towards soft labels, stored ones or those of a teacher beside it.

The trainer (`trainer`) holds the loss, and stands on layers, one file each, from the ground up: `trainer_resuming`
(with `checkpoints` and `lineage`), `trainer_reading`, `trainer_measuring`, then `trainer_standardizing` (with `units`)
and `trainer_next_tokens`. `arguments` says what can be asked for; `settings` refuses what would have no effect, and
`given` what can't be trained.

A dataset becomes batches by the `reader`: it looks at a few rows (`first_batch`), says what the labels mean
(`problem`, `classes`, `token_labels`), and hands on `prepared_rows`. Rows that somebody else prepares go through
`collating`, columns in memory are a `batched_dataset`, and a language model has its `next_token_reader`.

Targets have one of three sources: stored labels (`supervision`), with a lambda or weights by example
(`draw_variance`, `bias_aware`, `draw_log_probs`); those of next tokens (`next_token_targets`), whose loss is in
`next_token_loss`; or the teacher itself (`online_teacher`).

What a training leaves is in `saving` and `card`. Beside it stand `progress`, and what measures a training or its
student: `diagnostics`, `sharpness`, `conformal`.
"""
