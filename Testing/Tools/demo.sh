#!/bin/sh
# The demo, in the commands a user would type. Usage: demo.sh GEDGAN FOLDER
set -eu
gedgan=$1
folder=$2
rm -rf "$folder/cohort" "$folder/run" "$folder/synthesized"
rm -f "$folder/scene.mrb" "$folder/scene.png" "$folder/contact-sheet.png" "$folder/losses.png"
mkdir -p "$folder"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '\033[2m$ gedgan %s\033[0m\n' "$*"; "$gedgan" "$@"; }

say "1 of 4: forty variations of one average brain to learn from"
run cohort -n 40 -o "$folder/cohort" --shape 24 32 24 --spacing 6.5
say "2 of 4: three minutes of training"
run train "$folder/cohort" -o "$folder/run" --minutes 3
say "3 of 4: four new brains, each with its segmentation"
run synthesize "$folder/run/model.safetensors" -n 4 -o "$folder/synthesized" --scene "$folder/scene.mrb"
cp "$folder/synthesized/contact-sheet.png" "$folder/run/losses.png" "$folder/"
say "4 of 4: the scene as Slicer shows it"
if ! run render "$folder/scene.mrb" -o "$folder/scene.png"; then
    echo "The picture of the scene is left out; everything else is there."
fi

cat <<END

Written to $folder/: scene.mrb (open it in 3D Slicer), synthesized/ (one NIfTI pair a case, ready for nnU-Net),
contact-sheet.png (real above, synthesized below), losses.png, scene.png (Slicer's own views), run/model.safetensors.
Three minutes on a small grid teach outlines; longer training and a GPU teach the rest. Try next, with your own scans:
  $gedgan check SCANS
  $gedgan train SCANS -o runs/first --minutes 60
  $gedgan synthesize runs/first/model.safetensors -n 8 -o runs/out --scene runs/out/scene.mrb
END
