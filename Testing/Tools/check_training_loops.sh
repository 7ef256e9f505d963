#!/bin/sh
# Do the examples in the docstrings run that draw variations on the fly: MONAI's, TorchIO's, nnU-Net's; and does nnU-Net
# take a data set of variations? Needs a network for the first set-up (TorchIO, nnU-Net), so it is not among the tests.
#
#   sh Testing/Tools/check_training_loops.sh RUN DATA    (RUN of gedgan align, of the nnU-Net or Decathlon folder DATA)
set -eu
run=$(cd "$1" && pwd) data=$(cd "$2" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$root/build/check-loops
tools=$root/build/loops
rm -rf "$work" && mkdir -p "$work/raw" "$work/preprocessed" "$work/results"
if [ ! -x "$tools/bin/nnUNetv2_train" ]; then
    "$root/.venv/bin/python" -m venv "$tools"
    "$tools/bin/pip" install --quiet "torch==2.13.0" nnunetv2==2.8.1 torchio
    "$tools/bin/pip" install --quiet --editable "$root"
fi
export nnUNet_raw="$work/raw" nnUNet_preprocessed="$work/preprocessed" nnUNet_results="$work/results"
export GEDGAN_RUN="$run" nnUNet_n_proc_DA=2 nnUNet_compile=f CUDA_VISIBLE_DEVICES=
check="$tools/bin/python $root/Testing/Tools/check_training_loops.py"
$check examples "$run" "$data" "$work"
"$tools/bin/nnUNetv2_plan_and_preprocess" -d 501 -c 3d_fullres -np 2 > "$work/nnunet.log" 2>&1
$check nnunet "$run" "$data" "$work" >> "$work/nnunet.log" 2>&1 || { tail -30 "$work/nnunet.log"; exit 1; }
tail -2 "$work/nnunet.log"
"$tools/bin/gedgan" augment "$run" "$data" -n 1 --with-real -o "$work/raw/Dataset502_Varied" >> "$work/nnunet.log" 2>&1
"$tools/bin/nnUNetv2_plan_and_preprocess" -d 502 --verify_dataset_integrity -c 3d_fullres -npfp 1 --no_pp > "$work/502.log" 2>&1
grep "most likely OK" "$work/502.log"
echo "All three run, and nnU-Net takes what gedgan augment writes."
