"""Examples in the help of each command."""

EXAMPLES = {
    "demo": [
        "comity demo",
        "comity demo --out runs/demo --set train.epochs=1",
        "comity demo --files demo",
    ],
    "init": [
        "comity init reviews.csv pairs.jsonl",
        "comity init data/mood-train.csv data/mood-dev.csv --out mood.toml",
        "comity init reviews.csv --out -",
    ],
    "check": [
        "comity check recipe.toml",
        "comity check recipe.toml --data data --json",
        "comity check --set train.lr=1e-5 recipe.toml --only mood",
    ],
    "train": [
        "comity train recipe.toml --out runs/first",
        "comity train recipe.toml --out runs/slow --set train.lr=1e-5 train.epochs=4",
        "comity train recipe.toml --out runs/mood-only --only mood",
        "comity train recipe.toml --out runs/first --track tensorboard",
        "comity train recipe.toml --dry-run",
        "comity train --resume runs/first",
    ],
    "recipe": [
        "comity recipe",
        "comity recipe train.lr",
        "comity recipe --json-schema > recipe.schema.json",
    ],
    "info": [
        "comity info runs/first",
        "comity info runs/first --json",
    ],
    "evaluate": [
        "comity evaluate runs/first",
        "comity evaluate runs/first unseen.csv --task mood --json",
        "comity evaluate runs/first old.csv --encoding cp1252 --delimiter tab",
    ],
    "predict": [
        "comity predict runs/first --task mood --input new.csv --output labelled.csv",
        "comity predict runs/first --task mood --input a.jsonl --output b.parquet",
    ],
    "serve": [
        "comity serve runs/first",
        "comity serve runs/first --host 0.0.0.0 --port 80 --api-key-file key.txt",
    ],
    "export": [
        "comity export runs/first --to transformers --out exported",
        "comity export runs/first --to onnx --out onnx --int8",
        "comity export runs/first --to comity --out model --json",
    ],
    "push": [
        "comity push exported/tasks/mood name/mood --private",
        "comity push runs/first name/model --revision second-try",
    ],
    "compare": [
        "comity compare runs/mood-only runs/first",
        "comity compare sum-0 sum-1 pcgrad-0 pcgrad-1 --group-seeds",
    ],
    "report": [
        "comity report runs/first",
        "comity report runs/first runs/mood-only --out pages/first",
        "comity report pcgrad-0 pcgrad-1 sum-0 sum-1 --group-seeds --no-texts",
    ],
    "sweep": [
        "comity sweep recipe.toml --out runs/rates --set train.lr=1e-5,2e-5,5e-5",
        "comity sweep recipe.toml --out runs/seeds --set train.seed=0,1,2 --dry-run",
        "comity sweep recipe.toml --out runs/seeds --set train.seed=0,1,2 --jobs 3",
    ],
    "baseline": [
        "comity baseline recipe.toml --out runs/alone --dry-run",
        "comity baseline recipe.toml --out runs/alone --compare runs/first",
        "comity baseline recipe.toml --out runs/alone --seeds 1 --folds 5",
    ],
    "ablate": [
        "comity ablate recipe.toml --out runs/parts --dry-run",
        "comity ablate recipe.toml --out runs/parts --parts balancer pooling --seeds 3",
    ],
    "soup": [
        "comity soup runs/seed-0 runs/seed-1 runs/seed-2 --out runs/soup",
        "comity soup runs/rates/* --out runs/soup --overwrite --json",
    ],
    "analyse": [
        "comity analyse runs/first --task similarity --out figures",
    ],
    "augment": [
        "comity augment train.csv --column text --output more.csv --with-source \\\n"
        "    --to Helsinki-NLP/opus-mt-en-de --back Helsinki-NLP/opus-mt-de-en",
    ],
    "paper": [
        "comity paper --data data --out runs/paper --dry-run",
        "comity paper --data data --out runs/paper --table 1 --seeds 3",
    ],
    "clean": [
        "comity clean runs",
        "comity clean runs --only checkpoints --yes",
    ],
    "help": [
        "comity help",
        "comity help train",
    ],
    "completion": [
        "source <(comity completion bash)",
        "comity completion zsh > ~/.zfunc/_comity",
        "comity completion fish > ~/.config/fish/completions/comity.fish",
    ],
}
"""Command lines by command."""
