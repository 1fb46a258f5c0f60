#!/usr/bin/env bash
# Learn from preferences with a replay buffer in a Zarr store, look at what it holds, and fit an autoencoder to it; minutes on two cores.
# Needs the extra [training]. PYTHON=... chooses the Python to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
buffer=runs/$(date +%Y%m%d-%H%M%S)/replay_buffer.zarr # a run never replaces what an earlier one has saved

"$python" scripts/pref_ppo.py --env_id HalfCheetah-v5 --total_timesteps 20000 --replay_buffer_save_path $buffer
"$python" scripts/test_replay_buffer_loading.py --replay_buffer_path $buffer
"$python" scripts/analyze_replay_buffer.py --replay_buffer_path $buffer

# So early the agent acts almost at random, and what is random cannot be compressed: short fragments, and many latent numbers.
"$python" scripts/train_vae_on_replay_buffer.py --replay_buffer_path $buffer --fragment_length 16 --vae_latent_dim 64
