# one call of the device machine: tests and the evening's trainings side by side, then benches alone
T0=$SECONDS; R=$PWD; at() { echo "[$((SECONDS-T0)) s] $*"; }
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl || exit
mkdir -p /tmp/lib311 /tmp/ev; tar xJf .dev/lib311.tar.xz -C /tmp/lib311; touch /tmp/site/vl_convert.py
cat > /tmp/site/sitecustomize.py <<'P'
import sysconfig as _s
_o=_s.get_path
_s.get_path=lambda name,*a,**k: '/tmp/lib311' if name=='stdlib' else _o(name,*a,**k)
P
export PYTHONPATH=/tmp/site:$R/src PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader; lscpu | grep -E "Model name|^CPU\(s\)"; at installed
(cd /tmp/ev; SOFTMAP_QUALIFY=off OMP_NUM_THREADS=1 exec setsid python3 -m softmap compare evening --jobs 9 --name evening --set training.precision=fp32 training.checkpoint_every=900 > $OUT/evening.log 2>&1) & 
sleep 2
stopped() { pkill -$1 -f "name evening"; pkill -$1 -f spawn_main; }
timeout -s INT 150 python3 -m pytest -n 6 -m "not slow" tests/ops/triton -q --durations=12 -p no:cacheprovider > $OUT/tests.log 2>&1; tail -25 $OUT/tests.log | cut -c1-300
at tests; tail -2 $OUT/evening.log; stopped STOP; sleep 1
timeout 80 python3 benchmarks/gpu_table.py --variants diff sas --out $OUT/table.json 2>&1 | tail -30 | cut -c1-250; at table
timeout 45 python3 benchmarks/gpu_table.py --variants dcmha --window 256 --out $OUT/window.json 2>&1 | tail -12 | cut -c1-250; at window
S="model.hidden_size=2048 model.num_hidden_layers=4 model.num_attention_heads=16 model.context=2048 training.batch_size=8 data.tokenizer=bpe:4096"
timeout 100 python3 -m softmap bench step diff diff2 sas-p dcmha --set $S --device cuda --out $OUT/step.json 2>&1 | tail -14; at step
timeout 60 python3 -m softmap bench decode --rounds 3 --device cuda --out $OUT/decode.json 2>&1 | tail -14; at decode
stopped CONT
while [ $((SECONDS-T0)) -lt ${LIMIT:-535} ] && pgrep -f "name evening" > /dev/null; do sleep 2; done
at evening; pkill -TERM -f "name evening"; for i in 1 2 3 4 5 6; do pgrep -f "name evening" >/dev/null || break; sleep 2; done
tail -4 $OUT/evening.log; ls /tmp/ev/runs/evening /tmp/ev/runs/evening/variants/* 2>/dev/null | head -60
cd /tmp/ev/runs && find evening -name "*.pt" -o -name "*.safetensors" -o -name "checkpoint*" | head -3; tar cJf $OUT/evening.tar.xz --exclude='*.pt' --exclude='*.safetensors' --exclude='checkpoint*' evening; ls -la $OUT
