"""Arguments that many recipes start from; each says only what differs."""

ON_CPU = {
    "workers": 2,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 500,
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}
ON_GPU = {
    "num_train_epochs": 200,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 128,
    "per_device_eval_batch_size": 500,
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "logging_strategy": "epoch",
}
