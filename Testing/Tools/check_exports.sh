#!/bin/sh
# Does nnU-Net take what `gedgan export` writes, and MONAI its bundle? Needs a network for the first set-up (nnU-Net,
# jsonschema, MONAI's schema), so it is not among the tests.
#
#   sh Testing/Tools/check_exports.sh MODEL DATA [SEGMENTED]
#
# DATA has cases that MODEL was not trained on; SEGMENTED is a Dataset501_... that `gedgan segment --format nnunet` wrote.
set -eu
model=$1 data=$2 segmented=${3:-}
root=$(cd "$(dirname "$0")/../.." && pwd)
gedgan=$root/.venv/bin/gedgan
python=$root/.venv/bin/python
work=$root/build/check-exports
tools=$root/build/nnunet
rm -rf "$work" && mkdir -p "$work/raw" "$work/preprocessed" "$work/results"
if [ ! -x "$tools/bin/nnUNetv2_plan_and_preprocess" ]; then
    "$python" -m venv "$tools"
    "$tools/bin/pip" install --quiet "torch==2.13.0" nnunetv2==2.8.1 jsonschema
fi
"$gedgan" export "$model" --to nnunet -n 4 --with-real "$data" -o "$work/raw/Dataset501_Check"
export nnUNet_raw="$work/raw" nnUNet_preprocessed="$work/preprocessed" nnUNet_results="$work/results"
"$tools/bin/nnUNetv2_plan_and_preprocess" -d 501 --verify_dataset_integrity -c 3d_fullres -npfp 1 --no_pp > "$work/nnunet.log" 2>&1
grep "most likely OK" "$work/nnunet.log" && test -f "$work/preprocessed/Dataset501_Check/nnUNetPlans.json"
if [ -n "$segmented" ]; then
    cp -r "$segmented" "$work/raw/Dataset502_Segmented"
    "$tools/bin/nnUNetv2_plan_and_preprocess" -d 502 --verify_dataset_integrity -c 3d_fullres -npfp 1 --no_pp \
        > "$work/segmented.log" 2>&1
    grep "most likely OK" "$work/segmented.log" && test -f "$work/preprocessed/Dataset502_Segmented/nnUNetPlans.json"
fi
"$gedgan" export "$model" --to monai-bundle -o "$work/bundle"
cd "$work/bundle"
"$python" -m monai.bundle run --config_file configs/inference.json --number 1
ls synthetic
# MONAI asks for jsonschema, which the tests do without.
PYTHONPATH=$("$tools/bin/python" -c 'import site; print(site.getsitepackages()[0])') "$python" - <<'END'
import os, urllib.request, json, jsonschema
described = json.load(open("configs/metadata.json"))
schema = os.environ.get("MONAI_SCHEMA")
text = open(schema).read() if schema else urllib.request.urlopen(described["schema"]).read()
jsonschema.validate(described, json.loads(text))
print("The bundle's metadata fit MONAI's schema.")
END
echo "Both take it."
